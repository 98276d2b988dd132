"""Plain torch twin of :mod:`dlmcache_cuda.ops.density`."""

from __future__ import annotations

import torch
from torch import Tensor


def density(known: Tensor, begin: Tensor, end: Tensor, capacity: int, sigma: float) -> Tensor:
    """See :func:`dlmcache_cuda.ops.density`; computed in float64."""
    result = torch.zeros(known.shape, dtype=torch.float64, device=known.device)
    for slot, (first, last) in enumerate(zip(begin.tolist(), end.tolist(), strict=True)):
        if last <= first:
            continue
        region = slice(slot * capacity + first, slot * capacity + last)
        length = last - first
        inside = known[region].double()
        around = torch.cat([torch.ones_like(inside), inside, inside[-1:].expand(length)])
        at = torch.arange(3 * length, dtype=torch.float64, device=known.device)
        distance = at[length : 2 * length, None] - at
        window = torch.exp(-(distance**2) / (2 * sigma**2))
        result[region] = window @ around / window.sum(1)
    return result.float()
