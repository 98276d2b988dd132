"""Prompts given as embeddings: rows of text and of images, mixed as the user likes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dlmcache_cuda.decoding.regions import Region
from dlmcache_cuda.model import Llada

# What stands for a row without a token wherever ids of prompts are told.
NO_TOKEN = -1
_ALLOWED = "floating-point rows [P, D] or [B, P, D], or a list of [P, D] of any lengths"


def check_prompt_embeds(model: Llada, prompt_embeds: Any, gen_length: int) -> list[Tensor]:
    """``[P, D]`` of every prompt in the model's dtype, checked against the model.

    Raises:
        TypeError, ValueError: not such rows, of another width, not finite, or with ``gen_length``
            longer than the model's longest canvas.
    """
    several, items = _split(prompt_embeds)
    checked = []
    for index, item in enumerate(items):
        name = f"prompt_embeds[{index}]" if several else "prompt_embeds"
        if not isinstance(item, Tensor):
            raise TypeError(f"{name} must be a tensor [P, D], got {type(item).__name__}")
        if not item.is_floating_point():
            raise TypeError(f"{name} must hold floating-point rows, got {item.dtype}")
        width = model.config.d_model
        if item.dim() != 2 or item.shape[1] != width or len(item) == 0:
            raise ValueError(
                f"{name} must have shape [P, {width}] with P >= 1, got {list(item.shape)}"
            )
        limit, length = model.config.max_sequence_length, len(item) + gen_length
        if length > limit:
            raise ValueError(
                f"{name} has {len(item)} rows, and with gen_length={gen_length} the canvas has "
                f"{length}; max_sequence_length of this model is {limit}"
            )
        rows = item.detach().to(model.dtype)
        if not bool(rows.isfinite().all()):
            raise ValueError(f"{name} holds NaN or infinities in {model.dtype}")
        checked.append(rows)
    return checked


def embedded_prompts(
    model: Llada, embeds: Sequence[Tensor], gen_length: int
) -> list[tuple[Tensor, Region]]:
    """Prompts without tokens, each with a region of ``gen_length`` masks behind it."""
    return [
        (
            torch.full((len(rows),), NO_TOKEN, dtype=torch.int64),
            Region.of_masks(len(rows), gen_length, model.mask_token_id),
        )
        for rows in embeds
    ]


def _split(prompt_embeds: Any) -> tuple[bool, list[Any]]:
    """Whether several prompts were given, and the list of them."""
    if isinstance(prompt_embeds, Tensor):
        if prompt_embeds.dim() not in (2, 3):
            raise ValueError(
                f"prompt_embeds must be {_ALLOWED}, got shape {list(prompt_embeds.shape)}"
            )
        several = prompt_embeds.dim() == 3
        items = list(prompt_embeds) if several else [prompt_embeds]
    elif isinstance(prompt_embeds, Sequence) and not isinstance(
        prompt_embeds, (str, bytes, Mapping)
    ):
        several, items = True, list(prompt_embeds)
    else:
        raise TypeError(f"prompt_embeds must be {_ALLOWED}, got {type(prompt_embeds).__name__}")
    if not items:
        raise ValueError(f"prompt_embeds is empty; it must be {_ALLOWED}")
    return several, items
