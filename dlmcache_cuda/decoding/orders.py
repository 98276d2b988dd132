"""Random order: the order in which the positions of a block are committed."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from dlmcache_cuda import ops
from dlmcache_cuda.cache import RowList
from dlmcache_cuda.decoding.slots import Slot
from dlmcache_cuda.samplers.sampler import RANDOM_ORDER_STREAM


def draw_orders(slots: Sequence[Slot | None], capacity: int) -> None:
    """Draws the order of the blocks that begin; on the host, which needs it.

    The numbers are those that any device would draw.
    """
    begun = [
        (place, slot)
        for place, slot in enumerate(slots)
        if slot is not None and slot.step_in_block == 0
    ]
    if not begun:
        return
    seeds = [0 if slot is None else slot.seed for slot in slots]
    blocks = [0 if slot is None else slot.block for slot in slots]
    begin = [0] * len(slots)
    end = [0] * len(slots)
    for place, slot in begun:
        begin[place], end[place] = slot.block_begin, slot.block_end
    rows = RowList.from_ranges(begin, end, capacity)
    numbers = ops.uniform_rows(
        rows.row_index,
        capacity,
        torch.tensor(seeds, dtype=torch.int64),
        torch.tensor(blocks, dtype=torch.int64),
        RANDOM_ORDER_STREAM,
    ).split(rows.counts)
    for place, slot in begun:
        order = numbers[place].argsort(descending=True, stable=True) + slot.block_begin
        slot.order = [p for p in order.tolist() if slot.region.is_mask(p)]
        if slot.step == 0:
            region = range(slot.prompt_length, slot.length)
            slot.masks = tuple(p for p in region if slot.region.is_mask(p))
