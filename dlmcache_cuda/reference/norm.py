"""Plain torch twin of :mod:`dlmcache_cuda.ops.norm`."""

from __future__ import annotations

import torch
from torch import Tensor

from dlmcache_cuda.reference.rows import gather_rows


def rms_norm(x: Tensor, weight: Tensor, eps: float, row_index: Tensor | None = None) -> Tensor:
    """See :func:`dlmcache_cuda.ops.rms_norm`; float64 is accepted too."""
    rows = x if row_index is None else gather_rows(x, row_index)
    wide = rows.to(torch.promote_types(x.dtype, torch.float32))
    normed = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return normed.to(x.dtype) * weight


def add_rms_norm(x: Tensor, y: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """See :func:`dlmcache_cuda.ops.add_rms_norm`; float64 is accepted too."""
    total = x + y
    return total, rms_norm(total, weight, eps)
