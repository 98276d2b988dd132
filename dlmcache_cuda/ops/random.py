"""Random numbers that depend on a sequence's seed and nothing around it."""

from __future__ import annotations

import torch
from torch import Tensor

from dlmcache_cuda import _extension  # noqa: F401  (registers the operators)


def uniform_rows(
    row_index: Tensor, capacity: int, seeds: Tensor, ticks: Tensor, stream: int
) -> Tensor:
    """One uniform number for every row.

    Row ``r`` of slot ``s = row_index[r] // capacity`` and position ``p = row_index[r] % capacity``
    gets ``(x + 0.5) / 2^32`` rounded to fp32, where ``x`` is the first word of Philox4x32-10 with
    counter ``(0, p, ticks[s] mod 2^32, stream)`` and key ``seeds[s]``. Neither the slot nor the
    batch enters, and every device returns the same bits.

    Args:
        row_index: ``[R]`` int64, ``slot * capacity + position``; -1 marks an unused row.
        capacity: positions of a slot, at least 1.
        seeds: ``[S]`` int64, all 64 bits count.
        ticks: ``[S]`` int64, what makes one draw differ from the next: the step for random
            remasking, the number of the block for a random order.
        stream: what the numbers are for, from 1 to 2^32 - 1; 1 is random remasking, 2 random order
            (0 is the noise of :func:`head_reduce` and refused).

    Returns:
        ``[R]`` float32 in (0, 1), neither end included; 0 for unused rows.

    Raises:
        RuntimeError: a shape, dtype, device, ``capacity``, ``stream`` or (on a CPU) an index is not
            as above.
    """
    return torch.ops.dlmcache.uniform_rows(row_index, capacity, seeds, ticks, stream)


@torch.library.register_fake("dlmcache::uniform_rows")
def _(row_index: Tensor, capacity: int, seeds: Tensor, ticks: Tensor, stream: int) -> Tensor:
    return row_index.new_empty(row_index.shape, dtype=torch.float32)
