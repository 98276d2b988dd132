"""Stock Qwen2 from transformers, made bidirectional: the oracle of Dream's logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM


def stock_dream(
    config: dict[str, Any], weights: dict[str, Tensor], dtype: torch.dtype = torch.float32
) -> Qwen2ForCausalLM:
    """Stock Qwen2 of a Dream config.json, with weights under Dream's names, which are its own.

    Row p of its logits is the prediction of position p + 1, as in Dream's network.
    """
    stock_config = Qwen2Config(
        hidden_size=config["hidden_size"],
        num_hidden_layers=config["num_hidden_layers"],
        num_attention_heads=config["num_attention_heads"],
        num_key_value_heads=config["num_key_value_heads"],
        intermediate_size=config["intermediate_size"],
        vocab_size=config["vocab_size"],
        rms_norm_eps=config["rms_norm_eps"],
        rope_parameters={"rope_type": "default", "rope_theta": config["rope_theta"]},
        max_position_embeddings=config["max_position_embeddings"],
        tie_word_embeddings=config["tie_word_embeddings"],
        use_sliding_window=False,
        attn_implementation="eager",
    )
    stock_config.is_causal = False
    model = Qwen2ForCausalLM(stock_config).to(dtype).eval()
    missing, unexpected = model.load_state_dict(
        {name: value.to(dtype) for name, value in weights.items()}, strict=False
    )
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    model.tie_weights()
    for layer in model.model.layers:
        layer.self_attn.is_causal = False
    return model
