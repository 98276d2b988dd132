"""Early ends that a method prescribes: nothing behind an end of text is decoded any more."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dlmcache_cuda.decoding.canvas import Canvas
from dlmcache_cuda.decoding.slots import Cut
from dlmcache_cuda.policies import SlotView


def cut_at_eos(
    canvas: Canvas,
    views: Sequence[SlotView | None],
    fresh: Sequence[bool],
    masked_before: Tensor,
    end_token_id: int,
) -> list[Cut | None]:
    """Elastic-Cache: the first end of text that a step commits ends its sequence there, once.

    Masks behind it stay masks and are still attended to.

    Args:
        canvas: after the commit.
        views: the slots as they were before the step.
        fresh: slots that have not been cut yet.
        masked_before: ``[S * capacity]`` bool, masks before the commit.
        end_token_id: the token that ends a text.
    """
    shape = (canvas.num_slots, canvas.capacity)
    ends = (masked_before & (canvas.tokens == end_token_id)).view(shape)
    first = torch.where(ends.any(1), ends.int().argmax(1), -1)
    first = [p if fresh[slot] else -1 for slot, p in enumerate(first.tolist())]
    return _cuts(canvas, views, first)


def pad_behind_end(
    canvas: Canvas, views: Sequence[SlotView | None], due: Sequence[bool], status: Tensor
) -> list[Cut | None]:
    """SPA-Cache: what stands behind the first end token becomes padding, committed or not.

    Args:
        canvas: after the commit; changed.
        views: the slots as they were before the step.
        due: slots whose turn it is.
        status: ``[S, 5]`` of ``ops.commit_``; column 3 is the first end token.
    """
    lengths = [0 if view is None else view.length for view in views]
    first = [
        p if due[slot] and p < lengths[slot] else -1 for slot, p in enumerate(status[:, 3].tolist())
    ]
    for slot, p in enumerate(first):
        if p >= 0:
            canvas.tokens[canvas.slot_range(slot, p + 1, lengths[slot])] = canvas.pad_id
    return _cuts(canvas, views, first)


def _cuts(
    canvas: Canvas, views: Sequence[SlotView | None], last: Sequence[int]
) -> list[Cut | None]:
    """Cuts behind the positions ``last`` (-1: none), with the masks that are left."""
    if all(p < 0 for p in last):
        return [None] * len(last)
    masked = canvas.masked().view(canvas.num_slots, canvas.capacity).cpu()
    cuts: list[Cut | None] = []
    for slot, (view, p) in enumerate(zip(views, last, strict=True)):
        if view is None or p < 0:
            cuts.append(None)
            continue
        left = masked[slot, : p + 1]
        behind = int(left[: view.block_begin].sum())
        block = int(left[view.block_begin : view.block_end].sum())
        cuts.append(Cut(p + 1, behind, block, int(left.sum())))
    return cuts
