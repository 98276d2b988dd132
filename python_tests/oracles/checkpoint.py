"""Random checkpoints in LLaDA's and Dream's layouts, written without ``dlmcache_cuda.model``."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

VOCAB = 40
MASK, EOS, EOT = 36, 37, 38  # EOS is also the padding

DREAM_NAMES = {
    "wte": "model.embed_tokens",
    "ln_f": "model.norm",
    "ff_out": "lm_head",
    "attn_norm": "input_layernorm",
    "ff_norm": "post_attention_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
}


def write_checkpoint(
    folder: Path,
    seed: int,
    *,
    family: str = "llada",
    n_layers: int = 3,
    d_model: int = 32,
    n_heads: int = 4,
    n_kv_heads: int | None = None,
    mlp_hidden_size: int = 48,
    weight_tying: bool = False,
    max_sequence_length: int = 128,
    gain: float = 2.5,
) -> Path:
    """Weights so large that layers, positions and context matter and decisions are rarely close.

    ``family``: ``llada`` or ``dream``. ``gain``: standard deviation of the logits.
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
    if family == "dream":
        for layer in range(n_layers):
            for name, heads in (("q", n_heads), ("k", kv_heads), ("v", kv_heads)):
                bias = 0.5 * torch.randn(heads * head_dim, generator=generator)
                tensors[f"blocks.{layer}.{name}_proj.bias"] = bias
        tensors = {dream_name(name): tensor for name, tensor in tensors.items()}
        config = {
            "architectures": ["DreamModel"],
            "model_type": "Dream",
            "attention_dropout": 0.0,
            "eos_token_id": EOS,
            "hidden_act": "silu",
            "hidden_size": d_model,
            "intermediate_size": mlp_hidden_size,
            "mask_token_id": MASK,
            "max_position_embeddings": max_sequence_length,
            "num_attention_heads": n_heads,
            "num_hidden_layers": n_layers,
            "num_key_value_heads": kv_heads,
            "pad_token_id": EOS,
            "rms_norm_eps": 1e-6,
            "rope_scaling": None,
            "rope_theta": 10000.0,
            "tie_word_embeddings": weight_tying,
            "use_mrope": False,
            "use_sliding_window": False,
            "vocab_size": VOCAB,
        }
    else:
        tensors = {f"model.transformer.{name}": tensor for name, tensor in tensors.items()}
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
    save_file(
        {name: tensor.contiguous() for name, tensor in tensors.items()},
        str(folder / "model.safetensors"),
    )
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    return folder


def dream_name(name: str) -> str:
    """Qwen2's name, which Dream carries, of a weight under LLaDA's name."""
    *block, leaf, kind = name.split(".")
    if block:
        leaf = "mlp.down_proj" if leaf == "ff_out" else DREAM_NAMES[leaf]
        return f"model.layers.{block[1]}.{leaf}.{kind}"
    return f"{DREAM_NAMES[leaf]}.{kind}"
