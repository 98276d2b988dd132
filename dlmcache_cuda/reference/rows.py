"""Plain torch twins of :mod:`dlmcache_cuda.ops.rows`."""

from __future__ import annotations

import torch
from torch import Tensor


def gather_rows(src: Tensor, row_index: Tensor) -> Tensor:
    """See :func:`dlmcache_cuda.ops.gather_rows`."""
    used = row_index >= 0
    rows = (
        src[row_index.clamp(min=0)]
        if src.shape[0]
        else src.new_zeros((len(row_index), *src.shape[1:]))
    )
    return torch.where(used.view(-1, *[1] * (src.dim() - 1)), rows, torch.zeros_like(rows))
