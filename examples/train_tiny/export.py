"""Write a trained run as a checkpoint folder with LLaDA's names and config.

    python export.py --run runs/tiny --out CHECKPOINT_FOLDER

Any time after the first minute of a run: the weights are those of its last save.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from model import ModelConfig
from safetensors.torch import save_file
from tokenizer import EOS_ID, MASK_ID, save_tokenizer
from torch import Tensor
from worker import checkpoint_path, load_state

PREFIX = "model.transformer."


def llada_config(config: ModelConfig, dtype: torch.dtype) -> dict[str, object]:
    """The content of config.json, with the keys of LLaDA's own."""
    return {
        "architectures": ["LLaDAModelLM"],
        "model_type": "llada",
        "activation_type": "silu",
        "alibi": False,
        "attention_dropout": 0.0,
        "attention_layer_norm": False,
        "block_type": "llama",
        "d_model": config.d_model,
        "embedding_dropout": 0.0,
        "embedding_size": config.vocab_size,
        "eos_token_id": EOS_ID,
        "include_bias": False,
        "include_qkv_bias": False,
        "input_emb_norm": False,
        "layer_norm_type": "rms",
        "layer_norm_with_affine": True,
        "mask_token_id": MASK_ID,
        "max_sequence_length": config.max_sequence_length,
        "mlp_hidden_size": config.mlp_hidden_size,
        "n_heads": config.n_heads,
        "n_kv_heads": config.n_heads,
        "n_layers": config.n_layers,
        "pad_token_id": EOS_ID,
        "residual_dropout": 0.0,
        "rms_norm_eps": config.rms_norm_eps,
        "rope": True,
        "rope_full_precision": True,
        "rope_theta": config.rope_theta,
        "scale_logits": False,
        "torch_dtype": str(dtype).removeprefix("torch."),
        "vocab_size": config.vocab_size,
        "weight_tying": False,
    }


def llada_weights(weights: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Weights under LLaDA's names, in the stored type."""
    return {PREFIX + name: value.to(dtype).contiguous() for name, value in weights.items()}


def export(run: Path, out: Path, dtype: torch.dtype = torch.float32, average: bool = True) -> None:
    """Write config.json, model.safetensors and the tokenizer of a run."""
    state = load_state(checkpoint_path(run, 0))
    out.mkdir(parents=True, exist_ok=True)
    weights = llada_weights(state["average" if average else "model"], dtype)
    bad = [name for name, value in weights.items() if not value.isfinite().all()]
    if bad:
        raise ValueError(f"export: {bad[0]} has values that are not finite in {dtype}")
    path = out / "model.safetensors"
    save_file(weights, path, metadata={"format": "pt"})
    path.chmod(0o644)  # safetensors leaves it readable by its owner alone
    config = llada_config(ModelConfig(**state["config"]), dtype)
    (out / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    save_tokenizer(out)
    print(f"exported step {state['step']} to {out}")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="folder of the training run")
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoint")
    parser.add_argument("--dtype", choices=("float32", "float16"), default="float32")
    parser.add_argument("--raw", action="store_true", help="last weights, not their average")
    options = parser.parse_args()
    export(options.run, options.out, getattr(torch, options.dtype), not options.raw)


if __name__ == "__main__":
    main()
