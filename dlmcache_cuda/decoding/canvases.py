"""From what users pass as canvases to prompts and generation regions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from dlmcache_cuda.decoding.prompts import check_vocabulary, given_ids, tokenize_prompts
from dlmcache_cuda.decoding.regions import Region
from dlmcache_cuda.model import Llada

_ALLOWED = "token ids with mask tokens where text is wanted: [N] or [B, N], or a list of 1-D ones"


def split_canvases(model: Llada, canvas: Any) -> list[tuple[Tensor, Region]]:
    """Prompt ``[P]`` and region of every canvas, checked against the model.

    What stands before the first mask is the prompt.

    Raises:
        TypeError, ValueError: not token ids, a canvas without masks, longer than the model's
            longest one, or one whose first position nothing predicts.
    """
    several, items = _split(canvas)
    return [
        split_canvas(model, item, f"canvas[{index}]" if several else "canvas")
        for index, item in enumerate(items)
    ]


def split_canvas(model: Llada, canvas: Any, name: str) -> tuple[Tensor, Region]:
    """The same of one canvas, which messages call ``name``."""
    ids = given_ids(canvas, name)
    if ids is None:
        raise TypeError(f"{name} must be {_ALLOWED}, got {type(canvas).__name__}")
    check_canvas(model, ids, name)
    begin = int((ids == model.mask_token_id).int().argmax())
    return ids[:begin], Region.of_ids(begin, ids[begin:], model.mask_token_id)


def split_prompts(model: Llada, prompts: Any, gen_length: int) -> list[tuple[Tensor, Region]]:
    """The same of prompts, each with a region of ``gen_length`` masks behind it."""
    return [
        (ids, Region.of_masks(ids.numel(), gen_length, model.mask_token_id))
        for ids in tokenize_prompts(model, prompts, gen_length)
    ]


def check_canvas(model: Llada, ids: Tensor, name: str) -> None:
    """Refuses a canvas ``[N]`` that cannot be decoded."""
    check_vocabulary(model, ids, name)
    if not bool((ids == model.mask_token_id).any()):
        raise ValueError(
            f"{name} has no mask token ({model.mask_token_id}) among its {ids.numel()}: "
            "there is nothing to decode"
        )
    limit = model.config.max_sequence_length
    if ids.numel() > limit:
        raise ValueError(
            f"{name} has {ids.numel()} positions; max_sequence_length of this model is {limit}"
        )
    if ids[0] == model.mask_token_id and model.shift:
        raise ValueError(
            f"{name} begins with a mask, but {model.config.model_type} predicts a position from "
            "the row before it: put a token in front, a beginning of text or a line break"
        )


def _split(canvas: Any) -> tuple[bool, list[Any]]:
    """Whether several canvases were given, and the list of them."""
    if isinstance(canvas, Tensor):
        if canvas.dim() not in (1, 2):
            raise ValueError(f"canvas must be {_ALLOWED}, got shape {list(canvas.shape)}")
        several = canvas.dim() == 2
        items = list(canvas) if several else [canvas]
    elif isinstance(canvas, Sequence) and not isinstance(canvas, (str, bytes, Mapping)):
        several = not all(isinstance(item, int) for item in canvas)
        items = list(canvas) if several else [canvas]
        if not canvas:
            items = []
    else:
        raise TypeError(f"canvas must be {_ALLOWED}, got {type(canvas).__name__}")
    if not items or (isinstance(items[0], Tensor) and items[0].numel() == 0 and not several):
        raise ValueError(f"canvas is empty; it must be {_ALLOWED}")
    return several, items
