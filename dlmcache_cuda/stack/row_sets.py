"""Row lists made from flags and from other lists."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from dlmcache_cuda import ops
from dlmcache_cuda.cache import RowList


def flagged_rows(
    end: Tensor,
    flags: Tensor,
    capacity: int,
    max_rows: int | None,
    counts: Sequence[int] | None = None,
) -> RowList:
    """The flagged positions below ``end [S]`` of every slot, in a list of ``max_rows``; None: one
    that is as long as it has to be, for which the device is read. ``counts`` is how many of each
    slot, where that is known."""
    begin = end.new_zeros(end.shape)
    size = flags.numel() if max_rows is None else max_rows
    row_index, cu_rows = ops.build_rows(begin, end, capacity, size, flags=flags)
    if max_rows is None:
        row_index = row_index[: cu_rows[-1]]
    return RowList(row_index, cu_rows, None if counts is None else tuple(counts), capacity)


def places_of(rows: RowList, listed: Tensor) -> Tensor:
    """Where each of the flat rows ``listed [Q]`` stands in ``rows``; -1 where it does not."""
    return ops.find_rows(rows.row_index, rows.cu_rows, listed, rows.capacity)
