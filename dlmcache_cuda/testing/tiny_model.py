"""Random LLaDA and Dream checkpoints, written independently of the package's loader."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from dlmcache_cuda.testing.stock_names import stock_name
from dlmcache_cuda.testing.tiny_dream import (
    in_llada_words,
    random_dream_config,
    random_qkv_biases,
)

DEFAULTS = {
    "model_type": "llada",
    "d_model": 48,
    "n_layers": 2,
    "n_heads": 3,
    "n_kv_heads": 3,
    "mlp_hidden_size": 80,
    "vocab_size": 67,
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5,
    "weight_tying": False,
    "max_sequence_length": 512,
    "block_type": "llama",
    "activation_type": "silu",
    "layer_norm_type": "rms",
    "include_bias": False,
    "include_qkv_bias": False,
    "alibi": False,
    "rope": True,
}


def random_config(**config: Any) -> dict[str, Any]:
    """A LLaDA config.json: small defaults, mask and end of text at the end of the vocabulary.

    A value of None removes the key. With ``model_type="Dream"`` a Dream config.json.
    """
    if config.get("model_type") == "Dream":
        return random_dream_config(**config)
    data = DEFAULTS | config
    vocab = data["vocab_size"]
    data.setdefault("embedding_size", vocab)
    data.setdefault("mask_token_id", vocab - 1)
    data.setdefault("eos_token_id", vocab - 2)
    data.setdefault("pad_token_id", vocab - 2)
    return {key: value for key, value in data.items() if value is not None}


def random_weights(config: dict[str, Any], seed: int = 0) -> dict[str, Tensor]:
    """fp32 weights of a LLaDA config under LLaDA's names without prefix, or of a Dream config
    under Dream's names.

    Scaled so that attention and feed-forward both matter and predictions are neither flat nor
    saturated.
    """
    generator = torch.Generator().manual_seed(seed)
    if config["model_type"] == "Dream":
        weights = _llada_weights(in_llada_words(config), generator)
        named = {stock_name(name): value for name, value in weights.items()}
        return named | random_qkv_biases(config, generator)
    return _llada_weights(config, generator)


def _llada_weights(config: dict[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
    width, inner = config["d_model"], config["mlp_hidden_size"]
    kv_width = width // config["n_heads"] * (config.get("n_kv_heads") or config["n_heads"])
    vocab = config.get("embedding_size") or config["vocab_size"]

    def matrix(rows: int, columns: int, gain: float = 1.0) -> Tensor:
        return torch.randn(rows, columns, generator=generator) * (gain / columns**0.5)

    def scale() -> Tensor:
        return 1 + 0.2 * torch.randn(width, generator=generator)

    weights = {"wte.weight": matrix(vocab, width, width**0.5)}
    for layer in range(config["n_layers"]):
        weights |= {
            f"blocks.{layer}.{name}.weight": value
            for name, value in (
                ("attn_norm", scale()),
                ("q_proj", matrix(width, width, 1.5)),
                ("k_proj", matrix(kv_width, width, 1.5)),
                ("v_proj", matrix(kv_width, width)),
                ("attn_out", matrix(width, width)),
                ("ff_norm", scale()),
                ("ff_proj", matrix(inner, width)),
                ("up_proj", matrix(inner, width)),
                ("ff_out", matrix(width, inner)),
            )
        }
    weights["ln_f.weight"] = scale()
    if not config.get("weight_tying"):
        weights["ff_out.weight"] = matrix(vocab, width, 2.0)
    return weights


def write_checkpoint(
    folder: Path,
    config: dict[str, Any],
    weights: dict[str, Tensor],
    *,
    shards: int = 2,
    prefix: str = "model.transformer.",
) -> Path:
    """config.json and safetensors files, with an index if there are several."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    named = {prefix + name: weight.contiguous() for name, weight in weights.items()}
    if shards == 1:
        save_file(named, folder / "model.safetensors", metadata={"format": "pt"})
        return folder
    weight_map = {}
    for shard in range(shards):
        file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
        part = dict(list(named.items())[shard::shards])
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    size = sum(weight.nbytes for weight in named.values())
    index = {"metadata": {"total_size": size}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def random_checkpoint(
    folder: Path,
    seed: int = 0,
    *,
    dtype: torch.dtype = torch.float32,
    shards: int = 2,
    prefix: str | None = None,
    tokenizer: bool = False,
    **config: Any,
) -> Path:
    """A random LLaDA or Dream checkpoint in ``folder``.

    Args:
        folder: made where it does not exist.
        seed: of the weights.
        dtype: of the stored weights.
        shards: number of safetensors files.
        prefix: in front of every weight's name. Default: as published.
        tokenizer: also write one whose words are ``w0``, ``w1``, ... for the ids.
        config: keys of config.json that differ from :data:`DEFAULTS`; None removes one. With
            ``model_type="Dream"`` a Dream, with sizes under LLaDA's names or its own.
    """
    data = random_config(**config)
    weights = {name: value.to(dtype) for name, value in random_weights(data, seed).items()}
    if prefix is None:
        prefix = "" if data["model_type"] == "Dream" else "model.transformer."
    folder = write_checkpoint(folder, data, weights, shards=shards, prefix=prefix)
    if tokenizer:
        write_tokenizer(folder, data)
    return folder


def write_tokenizer(folder: Path, config: dict[str, Any]) -> None:
    """A word-level tokenizer with a chat template: ``w5 w7`` is the ids 5 and 7."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    words = {f"w{index}": index for index in range(config["vocab_size"])}
    special = {"<|mdm_mask|>": config["mask_token_id"], "<|endoftext|>": config["eos_token_id"]}
    for word, index in special.items():
        del words[f"w{index}"]
        words[word] = index
    core = Tokenizer(WordLevel(words, unk_token="w0"))
    core.pre_tokenizer = WhitespaceSplit()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=core,
        unk_token="w0",
        mask_token="<|mdm_mask|>",
        eos_token="<|endoftext|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = (
        "{% for message in messages %}w1 {{ message['content'] }} {% endfor %}w2"
    )
    wrapped.save_pretrained(folder)


def random_model(
    seed: int = 0,
    *,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype | None = None,
    weights: str | None = None,
    **config: Any,
):
    """A :class:`dlmcache_cuda.model.Llada` with random weights; see :func:`random_checkpoint`."""
    from dlmcache_cuda.model import load

    with tempfile.TemporaryDirectory() as folder:
        random_checkpoint(Path(folder) / "random", seed, shards=1, **config)
        return load(Path(folder) / "random", device=device, dtype=dtype, weights=weights)
