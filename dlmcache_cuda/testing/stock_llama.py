"""Stock Llama from transformers, made bidirectional: the oracle of the model's logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from dlmcache_cuda.testing.stock_names import stock_name


def stock_model(
    config: dict[str, Any],
    weights: dict[str, Tensor],
    dtype: torch.dtype = torch.float32,
    attention: str = "eager",
) -> LlamaForCausalLM:
    """Stock Llama with the sizes of a LLaDA config and weights under LLaDA's names.

    Args:
        attention: transformers' implementation: ``eager``, or ``sdpa``, its fastest without extras.
    """
    stock_config = LlamaConfig(
        hidden_size=config["d_model"],
        num_hidden_layers=config["n_layers"],
        num_attention_heads=config["n_heads"],
        num_key_value_heads=config.get("n_kv_heads") or config["n_heads"],
        intermediate_size=config["mlp_hidden_size"],
        vocab_size=config.get("embedding_size") or config["vocab_size"],
        rms_norm_eps=config["rms_norm_eps"],
        rope_parameters={"rope_type": "default", "rope_theta": config["rope_theta"]},
        max_position_embeddings=config["max_sequence_length"],
        tie_word_embeddings=bool(config.get("weight_tying")),
        attention_bias=False,
        mlp_bias=False,
        attn_implementation=attention,
    )
    stock_config.is_causal = False
    model = LlamaForCausalLM(stock_config).to(dtype).eval()
    missing, unexpected = model.load_state_dict(
        {stock_name(name): value.to(dtype) for name, value in weights.items()}, strict=False
    )
    assert not unexpected and set(missing) <= {"lm_head.weight"}, (missing, unexpected)
    model.tie_weights()
    for layer in model.model.layers:
        layer.self_attn.is_causal = False
    return model


@torch.no_grad()
def stock_logits(model: LlamaForCausalLM, ids: Tensor) -> Tensor:
    return model(input_ids=ids, use_cache=False, is_causal=False).logits
