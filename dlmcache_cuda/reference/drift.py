"""Plain torch twin of :mod:`dlmcache_cuda.ops.drift`."""

from __future__ import annotations

import torch
from torch import Tensor

from dlmcache_cuda.reference.rows import gather_rows, scatter_rows_

#: What is less is rounding.
DRIFT_NOISE = 1e-12


def cosine_drift_(
    signal: Tensor, reference: Tensor, row_index: Tensor, update: bool = True
) -> Tensor:
    """See :func:`dlmcache_cuda.ops.cosine_drift_`; float64 is accepted too."""
    wide = torch.promote_types(signal.dtype, torch.float32)
    a, b = signal.to(wide), gather_rows(reference, row_index).to(wide)
    length_a, length_b = (x.square().sum(-1, keepdim=True).sqrt() for x in (a, b))
    difference = a / length_a - b / length_b
    drift = 0.5 * difference.square().sum(-1)
    drift = torch.where(drift < DRIFT_NOISE, 0.0, drift)
    one_zero, both_zero = (length_a == 0) | (length_b == 0), (length_a == 0) & (length_b == 0)
    drift = torch.where(one_zero.squeeze(-1), 1.0, drift)
    drift = torch.where(both_zero.squeeze(-1) | (row_index < 0), 0.0, drift)
    # Infinite lengths: finite elements over them would be zeros.
    infinite = (torch.isinf(length_a) | torch.isinf(length_b)).squeeze(-1) & (row_index >= 0)
    drift = torch.where(infinite, torch.nan, drift)
    if update:
        scatter_rows_(reference, signal, row_index)
    return drift
