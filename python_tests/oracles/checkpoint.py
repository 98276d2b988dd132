"""Random checkpoints as LLaDA and Dream publish them, written without ``dlmcache_cuda.model``."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

VOCAB = 40
MASK, EOS, EOT = 36, 37, 38  # EOS is also the padding


def write_checkpoint(
    folder: Path,
    seed: int,
    *,
    n_layers: int = 3,
    d_model: int = 32,
    n_heads: int = 4,
    n_kv_heads: int | None = None,
    mlp_hidden_size: int = 48,
    weight_tying: bool = False,
    max_sequence_length: int = 128,
    gain: float = 2.5,
    dream: bool = False,
) -> Path:
    """Weights so large that layers, positions and context matter and decisions are rarely close.

    ``gain``: standard deviation of the logits. ``dream``: Dream's names and biases.
    """
    folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(seed)
    kv_heads = n_kv_heads or n_heads
    head_dim = d_model // n_heads

    def normal(rows: int, columns: int, gain: float) -> torch.Tensor:
        return torch.randn(rows, columns, generator=generator) * gain / columns**0.5

    def norm_weight() -> torch.Tensor:
        return 1 + 0.2 * torch.randn(d_model, generator=generator)

    tensors = {"wte.weight": normal(VOCAB, d_model, d_model**0.5), "ln_f.weight": norm_weight()}
    for layer in range(n_layers):
        block = {
            "attn_norm.weight": norm_weight(),
            "ff_norm.weight": norm_weight(),
            "q_proj.weight": normal(n_heads * head_dim, d_model, 1.5),
            "k_proj.weight": normal(kv_heads * head_dim, d_model, 1.5),
            "v_proj.weight": normal(kv_heads * head_dim, d_model, 1.5),
            "attn_out.weight": normal(d_model, d_model, 1.5),
            "ff_proj.weight": normal(mlp_hidden_size, d_model, 1.0),
            "up_proj.weight": normal(mlp_hidden_size, d_model, 1.0),
            "ff_out.weight": normal(d_model, mlp_hidden_size, 1.5),
        }
        tensors |= {f"blocks.{layer}.{name}": tensor for name, tensor in block.items()}
    if weight_tying:
        tensors["wte.weight"] *= gain / d_model**0.5
    else:
        tensors["ff_out.weight"] = normal(VOCAB, d_model, gain)
        # wider logits: these ids win more often than their share, so that sequences end and stall
        tensors["ff_out.weight"][[MASK, EOS, EOT]] *= torch.tensor([1.1, 1.7, 1.7])[:, None]
    if dream:
        for layer in range(n_layers):
            for name, heads in (("q_proj", n_heads), ("k_proj", kv_heads), ("v_proj", kv_heads)):
                bias = torch.randn(heads * head_dim, generator=generator)
                tensors[f"blocks.{layer}.{name}.bias"] = bias
        return _write_dream(
            folder,
            tensors,
            {
                "hidden_size": d_model,
                "num_hidden_layers": n_layers,
                "num_attention_heads": n_heads,
                "num_key_value_heads": kv_heads,
                "intermediate_size": mlp_hidden_size,
                "tie_word_embeddings": weight_tying,
                "max_position_embeddings": max_sequence_length,
            },
        )
    save_file(
        {f"model.transformer.{name}": tensor.contiguous() for name, tensor in tensors.items()},
        str(folder / "model.safetensors"),
    )
    config = {
        "architectures": ["LLaDAModelLM"],
        "model_type": "llada",
        "activation_type": "silu",
        "alibi": False,
        "attention_layer_norm": False,
        "block_type": "llama",
        "d_model": d_model,
        "embedding_size": VOCAB,
        "eos_token_id": [EOS, EOT],
        "include_bias": False,
        "include_qkv_bias": False,
        "input_emb_norm": False,
        "layer_norm_type": "rms",
        "mask_token_id": MASK,
        "max_sequence_length": max_sequence_length,
        "mlp_hidden_size": mlp_hidden_size,
        "mlp_ratio": 4,
        "n_heads": n_heads,
        "n_kv_heads": kv_heads,
        "n_layers": n_layers,
        "pad_token_id": EOS,
        "rms_norm_eps": 1e-5,
        "rope": True,
        "rope_full_precision": True,
        "rope_theta": 10000.0,
        "scale_logits": False,
        "vocab_size": VOCAB,
        "weight_tying": weight_tying,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    return folder


# LLaDA's name of a part -> Qwen2's, which Dream's checkpoints use.
_BLOCK_PARTS = {
    "attn_norm": "input_layernorm",
    "ff_norm": "post_attention_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
}
_OUTER_PARTS = {"wte": "model.embed_tokens", "ln_f": "model.norm", "ff_out": "lm_head"}


def _write_dream(folder: Path, tensors: dict[str, torch.Tensor], sizes: dict) -> Path:
    named = {}
    for name, tensor in tensors.items():
        *block, part, kind = name.split(".")
        if block:
            named[f"model.layers.{block[1]}.{_BLOCK_PARTS[part]}.{kind}"] = tensor.contiguous()
        else:
            named[f"{_OUTER_PARTS[part]}.{kind}"] = tensor.contiguous()
    save_file(named, str(folder / "model.safetensors"))
    config = {
        "architectures": ["DreamModel"],
        "model_type": "Dream",
        "bos_token_id": EOS,
        "eos_token_id": [EOS, EOT],
        "hidden_act": "silu",
        "mask_token_id": MASK,
        "pad_token_id": EOS,
        "rms_norm_eps": 1e-6,
        "rope_scaling": None,
        "rope_theta": 10000.0,
        "use_mrope": False,
        "use_sliding_window": False,
        "vocab_size": VOCAB,
        **sizes,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    return folder
