"""Plain torch twins of :mod:`dlmcache_cuda.ops.rows`."""

from __future__ import annotations

import torch
from torch import Tensor


def gather_rows(src: Tensor, row_index: Tensor) -> Tensor:
    """See :func:`dlmcache_cuda.ops.gather_rows`."""
    if src.shape[0] == 0:
        return src.new_zeros((row_index.shape[0], *src.shape[1:]))
    unused = (row_index < 0).view(-1, *[1] * (src.dim() - 1))
    rows = src[row_index.clamp(min=0)]
    return torch.where(unused, torch.zeros_like(rows), rows)


def scatter_rows_(dst: Tensor, rows: Tensor, row_index: Tensor) -> None:
    """See :func:`dlmcache_cuda.ops.scatter_rows_`."""
    used = row_index >= 0
    dst[row_index[used]] = rows[used]
