"""From LLaDA's names of weights to those of stock Llama and Qwen2."""

from __future__ import annotations

BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_norm": "post_attention_layernorm",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
}
OUTER_NAMES = {
    "wte.weight": "model.embed_tokens.weight",
    "ln_f.weight": "model.norm.weight",
    "ff_out.weight": "lm_head.weight",
}


def stock_name(name: str) -> str:
    """``blocks.3.q_proj.weight`` -> ``model.layers.3.self_attn.q_proj.weight``."""
    if name in OUTER_NAMES:
        return OUTER_NAMES[name]
    _, layer, leaf, kind = name.split(".")
    return f"model.layers.{layer}.{BLOCK_NAMES[leaf]}.{kind}"
