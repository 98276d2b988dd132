"""Plain torch twins of :mod:`dlmcache_cuda.ops.row_list`."""

from __future__ import annotations

import torch
from torch import Tensor


def build_rows(
    begin: Tensor,
    end: Tensor,
    capacity: int,
    max_rows: int,
    flags: Tensor | None = None,
    limit: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """See :func:`dlmcache_cuda.ops.build_rows`; rows that do not fit are always an error."""
    num_slots = begin.shape[0]
    position = torch.arange(capacity, device=begin.device)
    listed = (begin[:, None] <= position) & (position < end[:, None])
    if flags is not None:
        listed &= flags.view(num_slots, capacity)
    if limit is not None:
        listed &= listed.cumsum(1) <= limit[:, None]
    cu_rows = torch.cat([begin.new_zeros(1), listed.sum(1).cumsum(0)])
    rows = listed.flatten().nonzero().flatten()
    if len(rows) > max_rows:
        raise RuntimeError(f"build_rows: {len(rows)} rows do not fit into max_rows = {max_rows}")
    return torch.cat([rows, rows.new_full((max_rows - len(rows),), -1)]), cu_rows


def find_rows(row_index: Tensor, cu_rows: Tensor, query: Tensor, capacity: int) -> Tensor:
    """See :func:`dlmcache_cuda.ops.find_rows`."""
    rows = row_index[: int(cu_rows[-1])]
    if len(rows) == 0:
        return torch.full_like(query, -1)
    place = torch.searchsorted(rows, query).clamp(max=len(rows) - 1)
    return torch.where(rows[place] == query, place, -1)
