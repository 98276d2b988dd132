"""Random LLaDA-V checkpoints: a language tower, a SigLIP tower and a projector, as published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from dlmcache_cuda.testing.stock_names import stock_name
from dlmcache_cuda.testing.tiny_model import (
    random_config,
    random_weights,
    write_checkpoint,
    write_tokenizer,
)

TOWER_SIZES = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 20,
    "patch_size": 6,
}
_LLAMA_KEYS = {
    "d_model": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "mlp_hidden_size": "intermediate_size",
    "max_sequence_length": "max_position_embeddings",
    "weight_tying": "tie_word_embeddings",
}
_KEPT = ("vocab_size", "rope_theta", "rms_norm_eps", "mask_token_id", "eos_token_id")


def random_llada_v_checkpoint(
    folder: Path, seed: int = 0, *, tower_inside: bool = True, **config: Any
) -> Path:
    """A random LLaDA-V in ``folder``, with a tokenizer whose words are ``w0``, ``w1``, ...

    Args:
        tower_inside: the weights of the vision tower stand in the checkpoint; False: beside it, in
            the folder that ``mm_vision_tower`` names.
        config: keys of config.json: LLaDA's own for sizes, and the ``mm_`` and ``image_`` ones of
            LLaVA-NeXT.
    """
    vision = {key: config.pop(key) for key in list(config) if key.startswith(("mm_", "image_"))}
    language = random_config(**config)
    weights = random_weights(language, seed)
    data = {
        "model_type": "llava_llada",
        **{_LLAMA_KEYS[key]: language[key] for key in _LLAMA_KEYS if key in language},
        **{key: language[key] for key in _KEPT},
        "mm_vision_tower": "tower",
        "mm_projector_type": "mlp2x_gelu",
        "mm_patch_merge_type": "spatial_unpad",
        "image_aspect_ratio": "anyres_max_4",
        "image_grid_pinpoints": "(1x1),...,(3x3)",
        **vision,
    }
    named = {stock_name(name): value for name, value in weights.items()}
    named |= projector_weights(language["d_model"], seed)
    tower = tower_weights(seed)
    if tower_inside:
        named |= {"model.vision_tower.vision_tower." + name: w for name, w in tower.items()}
    write_checkpoint(folder, data, named, shards=2, prefix="")
    write_tokenizer(folder, language)
    own = Path(folder) / "tower"
    own.mkdir(exist_ok=True)
    (own / "config.json").write_text(json.dumps({"vision_config": TOWER_SIZES}))
    if not tower_inside:
        save_file(tower, own / "model.safetensors", metadata={"format": "pt"})
    return Path(folder)


def projector_weights(width: int, seed: int) -> dict[str, Tensor]:
    """``mm_projector`` and ``image_newline``, by published name."""
    generator = torch.Generator().manual_seed(seed + 1)

    def normal(*shape: int, gain: float = 1.0) -> Tensor:
        return torch.randn(*shape, generator=generator) * gain

    hidden = TOWER_SIZES["hidden_size"]
    return {
        "model.mm_projector.0.weight": normal(width, hidden, gain=hidden**-0.5),
        "model.mm_projector.0.bias": normal(width, gain=0.1),
        "model.mm_projector.2.weight": normal(width, width, gain=3 * width**-0.5),
        "model.mm_projector.2.bias": normal(width, gain=0.1),
        "model.image_newline": normal(width),
    }


def tower_weights(seed: int) -> dict[str, Tensor]:
    """A whole SigLIP without head, by its published names."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tower = SiglipVisionModel(SiglipVisionConfig(**TOWER_SIZES, vision_use_head=False))
        state = {name: 3 * torch.randn_like(w) * w.std() for name, w in tower.state_dict().items()
                 if w.dim() > 1}  # fmt: skip
        state |= {name: w + 0.1 * torch.randn_like(w) for name, w in tower.state_dict().items()
                  if w.dim() == 1}  # fmt: skip
    published = "vision_model."
    return {published + name.removeprefix(published): w for name, w in state.items()}
