"""Plain torch twin of :mod:`dlmcache_cuda.ops.select`."""

from __future__ import annotations

import torch
from torch import Tensor


def select_rows(
    score: Tensor,
    row_index: Tensor,
    cu_rows: Tensor,
    k: Tensor,
    max_rows: int,
    largest: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`dlmcache_cuda.ops.select_rows`; rows that do not fit are always an error."""
    chosen, offsets = [], [0]
    for slot in range(cu_rows.shape[0] - 1):
        first, behind = int(cu_rows[slot]), int(cu_rows[slot + 1])
        part = score[first:behind]
        is_nan = part.isnan()
        # Stable sorts keep equal scores in the order of the list.
        order = (
            (part if largest else -part)
            .masked_fill(is_nan, 0)
            .argsort(descending=True, stable=True)
        )
        order = order[is_nan[order].long().argsort(descending=True, stable=True)]
        best = order[: max(0, int(k[slot]))].sort().values + first
        chosen.append(best)
        offsets.append(offsets[-1] + best.shape[0])
    places = torch.cat([row_index.new_empty(0), *chosen])
    if len(places) > max_rows:
        raise RuntimeError(f"select_rows: {len(places)} rows do not fit into max_rows = {max_rows}")
    unused = row_index.new_full((max_rows - len(places),), -1)
    rows = torch.cat([row_index[places], unused])
    return rows, torch.cat([places, unused]), cu_rows.new_tensor(offsets)
