"""Random Dream checkpoints, written independently of the package's loader."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Published Dream-v0 configs have these keys, and others that do not matter.
DREAM_DEFAULTS = {
    "model_type": "Dream",
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 80,
    "vocab_size": 67,
    "rope_theta": 10000.0,
    "rope_scaling": None,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
    "max_position_embeddings": 512,
    "hidden_act": "silu",
    "use_sliding_window": False,
    "sliding_window": None,
    "use_mrope": False,
}
_SIZES = {
    "d_model": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "mlp_hidden_size": "intermediate_size",
    "weight_tying": "tie_word_embeddings",
}


def random_dream_config(**config: Any) -> dict[str, Any]:
    """A Dream config.json: small defaults, mask and end of text at the end of the vocabulary.

    Sizes may be given under LLaDA's names too. A value of None removes the key.
    """
    data = DREAM_DEFAULTS | {_SIZES.get(key, key): value for key, value in config.items()}
    vocab = data["vocab_size"]
    data.setdefault("mask_token_id", vocab - 1)
    data.setdefault("bos_token_id", vocab - 2)
    data.setdefault("eos_token_id", vocab - 2)
    data.setdefault("pad_token_id", vocab - 2)
    return {key: value for key, value in data.items() if value is not None}


def in_llada_words(config: dict[str, Any]) -> dict[str, Any]:
    """The sizes of a Dream config under LLaDA's names."""
    return config | {name: config[key] for name, key in _SIZES.items()}


def random_qkv_biases(config: dict[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
    """Biases of a Dream config, as large as what they are added to."""
    width, heads = config["hidden_size"], config["num_attention_heads"]
    kv_width = width // heads * config["num_key_value_heads"]
    return {
        f"model.layers.{layer}.self_attn.{name}.bias": torch.randn(size, generator=generator)
        for layer in range(config["num_hidden_layers"])
        for name, size in (("q_proj", width), ("k_proj", kv_width), ("v_proj", kv_width))
    }
