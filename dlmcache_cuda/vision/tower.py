"""The vision tower, transformers' SigLIP without its last layer, and the projector behind it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from dlmcache_cuda.vision.config import VisionConfig

TOWER = "vision_tower."
PROJECTOR = "mm_projector."
NEWLINE = "image_newline"


class VisionTower:
    """Images to rows of the language model's width.

    LLaVA's SigLIP tower drops the last encoder layer, the norm behind it and the pooling head; its
    features are what the second-last layer puts out.

    Args:
        config: sizes of the tower.
        weights: by name, as published but without the prefix ``model.``: ``vision_tower. ...``,
            ``mm_projector.{0,2}.{weight,bias}`` and ``image_newline``. Left over are the last layer
            and the head of a whole SigLIP.
        source: stands at the head of error messages.
    """

    def __init__(
        self,
        config: VisionConfig,
        weights: Mapping[str, Tensor],
        device: torch.device,
        dtype: torch.dtype,
        source: str,
    ) -> None:
        from transformers import SiglipVisionConfig, SiglipVisionModel

        self.config = config
        layers = config.sizes["num_hidden_layers"] - 1
        sizes = {**config.sizes, "num_hidden_layers": layers, "vision_use_head": False}
        with torch.device("meta"):
            tower = SiglipVisionModel(SiglipVisionConfig(**sizes))
        # Older versions of transformers have one more level.
        tower = getattr(tower, "vision_model", tower)
        self._embeddings, self._encoder = tower.embeddings, tower.encoder
        named = {_plain(name): value for name, value in weights.items() if name.startswith(TOWER)}
        for part, module in (("embeddings.", self._embeddings), ("encoder.", self._encoder)):
            _fill(module, part, named, device, dtype, source)
        if hasattr(self._embeddings, "position_ids"):
            count = self._embeddings.position_embedding.weight.shape[0]
            self._embeddings.position_ids = torch.arange(count, device=device)[None]
        first, second = weights.get(f"{PROJECTOR}0.weight"), weights.get(f"{PROJECTOR}2.weight")
        if first is None or second is None:
            raise ValueError(f"{source}: missing {PROJECTOR}0.weight or {PROJECTOR}2.weight")
        with torch.device("meta"):
            self._projector = nn.Sequential(
                nn.Linear(config.sizes["hidden_size"], first.shape[0]),
                nn.GELU(),
                nn.Linear(first.shape[0], second.shape[0]),
            )
        _fill(self._projector, PROJECTOR, weights, device, dtype, source)
        self.width = second.shape[0]
        self.newline: Tensor | None = None
        if config.merge_type == "spatial_unpad":
            if NEWLINE not in weights:
                raise ValueError(f"{source}: missing {NEWLINE}")
            self.newline = _placed(weights[NEWLINE], (self.width,), NEWLINE, device, dtype, source)

    @torch.no_grad()
    def encode(self, pixels: Tensor) -> Tensor:
        """``[C, 3, S, S]`` -> ``[C, side * side, D]``."""
        weight = self._embeddings.patch_embedding.weight
        hidden = self._embeddings(pixels.to(weight.device, weight.dtype))
        return self._projector(self._encoder(inputs_embeds=hidden).last_hidden_state)


def _plain(name: str) -> str:
    """``vision_tower.vision_tower.vision_model.encoder...`` -> ``encoder...``."""
    return name.removeprefix(TOWER).removeprefix(TOWER).removeprefix("vision_model.")


def _fill(
    module: nn.Module,
    prefix: str,
    weights: Mapping[str, Tensor],
    device: torch.device,
    dtype: torch.dtype,
    source: str,
) -> None:
    """Gives a module without memory its weights."""
    state = {}
    for name, parameter in module.named_parameters():
        if prefix + name not in weights:
            raise ValueError(f"{source}: missing {prefix}{name} of the vision tower or projector")
        shape = tuple(parameter.shape)
        state[name] = _placed(weights[prefix + name], shape, prefix + name, device, dtype, source)
    module.load_state_dict(state, strict=False, assign=True)
    module.requires_grad_(False).eval()


def _placed(
    weight: Tensor,
    shape: tuple[int, ...],
    name: str,
    device: torch.device,
    dtype: torch.dtype,
    source: str,
) -> Tensor:
    if tuple(weight.shape) != shape:
        raise ValueError(
            f"{source}: {name} has shape {list(weight.shape)}, the config makes it {list(shape)}"
        )
    placed = weight.to(device, dtype, copy=True)
    if not bool(placed.isfinite().all()):
        raise ValueError(f"{source}: {name} contains NaN or infinity in {dtype}")
    return placed
