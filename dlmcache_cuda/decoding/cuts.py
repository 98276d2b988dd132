"""Early ends that a method prescribes: nothing behind an end of text is decoded any more.

All of it happens on the device; where a sequence was cut, and the masks that are left before that,
are part of what a step reports.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dlmcache_cuda.decoding.canvas import Canvas
from dlmcache_cuda.decoding.control import StepControl
from dlmcache_cuda.decoding.slots import Cut

NUM_COLUMNS = 4


def cut_at_eos(
    canvas: Canvas,
    control: StepControl,
    masked_before: Tensor,
    end_token_id: int,
    given: bool,
    exact: bool,
) -> Tensor | None:
    """Elastic-Cache: the first end of text that a step commits ends its sequence there, once.

    Masks behind it stay masks and are still attended to.

    Args:
        canvas: after the commit.
        control: its ``may_cut`` tells the slots that have not been cut yet.
        masked_before: ``[S * capacity]`` bool, masks before the commit.
        end_token_id: the token that ends a text.
        given: text may be given inside a region; an end of text before it ends nothing.
        exact: the device may be read.

    Returns:
        ``[S, 4]`` int64, for :func:`read_cut`; None where an exact step commits no end of text.
    """
    shape = (canvas.num_slots, canvas.capacity)
    ends = masked_before & (canvas.tokens == end_token_id)
    if exact and not ends.any():
        return None
    ends = ends.view(shape)
    if given:
        ends = ends & _behind_text(canvas, control)
    cut = ends.any(1) & (control.loop.may_cut > 0)
    return _columns(canvas, control, ends.int().argmax(1).masked_fill(~cut, -1))


def find_ends(canvas: Canvas, control: StepControl, status: Tensor, end_ids: Tensor) -> None:
    """Regions with given text: an end token ends the text only where no given text follows it.

    Args:
        canvas: after the commit.
        control: its ``text_end`` tells behind which position that is.
        status: ``[S, 5]`` of ``ops.commit_``, which takes any end token of the region for the end.
            Changed: column 3 becomes the first end token that counts, column 2 the masks before it.
        end_ids: ``[E]`` int64.
    """
    shape, columns = (canvas.num_slots, canvas.capacity), control.columns
    ends = (canvas.tokens[:, None] == end_ids).any(1).view(shape) & _behind_text(canvas, control)
    first = torch.where(ends.any(1), ends.int().argmax(1), columns.length)
    before = canvas.masked().view(shape) & (canvas.positions < first[:, None])
    status[:, 2] = before.sum(1)
    status[:, 3] = first


def _behind_text(canvas: Canvas, control: StepControl) -> Tensor:
    """``[S, capacity]`` bool: positions of the region behind which no text is given."""
    behind = canvas.positions >= control.loop.text_end[:, None]
    return behind & (canvas.positions < control.columns.length[:, None])


def pad_behind_end(canvas: Canvas, control: StepControl, status: Tensor) -> Tensor:
    """SPA-Cache: what stands behind the first end token becomes padding, committed or not.

    Args:
        canvas: after the commit; changed.
        control: its ``pads`` tells the slots whose turn it is.
        status: ``[S, 5]`` of ``ops.commit_``; column 3 is the first end token.

    Returns:
        ``[S, 4]`` int64, for :func:`read_cut`.
    """
    columns, first, positions = control.columns, status[:, 3], canvas.positions
    cut = (control.loop.pads > 0) & (first < columns.length)
    behind = (positions > first[:, None]) & (positions < columns.length[:, None]) & cut[:, None]
    canvas.tokens.masked_fill_(behind.flatten(), canvas.pad_id)
    return _columns(canvas, control, first.masked_fill(~cut, -1))


def _columns(canvas: Canvas, control: StepControl, last: Tensor) -> Tensor:
    """The last position that is decoded (-1: no cut), and the masks up to it: behind the block, in
    the block, and in all."""
    columns, positions = control.columns, canvas.positions
    left = canvas.masked().view(canvas.num_slots, -1) & (positions <= last[:, None])
    behind = left & (positions < columns.block_begin[:, None])
    ahead = left & (positions >= columns.block_end[:, None])
    behind, ahead, left = behind.sum(1), ahead.sum(1), left.sum(1)
    return torch.stack((last, behind, left - behind - ahead, left), dim=1)


def read_cut(numbers: list[int]) -> Cut | None:
    """What a slot's four numbers say."""
    last, behind, block, left = numbers
    return None if last < 0 else Cut(last + 1, behind, block, left)
