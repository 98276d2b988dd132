"""Row lists made from flags and from other lists."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dlmcache_cuda import ops
from dlmcache_cuda.cache import RowList


def flagged_rows(
    begin: Sequence[int],
    end: Sequence[int],
    flags: Tensor,
    counts: Sequence[int],
    capacity: int,
) -> RowList:
    """The flagged positions of ``[begin[s], end[s])``; ``counts`` is how many there are."""
    bounds = torch.tensor([begin, end], dtype=torch.int64).to(flags.device)
    row_index, cu_rows = ops.build_rows(bounds[0], bounds[1], capacity, sum(counts), flags=flags)
    return RowList(row_index, cu_rows, tuple(counts), capacity)


def places_of(rows: RowList, listed: Tensor) -> Tensor:
    """Where each of the flat rows ``listed [Q]`` stands in ``rows``; -1 where it does not."""
    return ops.find_rows(rows.row_index, rows.cu_rows, listed, rows.capacity)
