"""Plain torch twin of :mod:`dlmcache_cuda.ops.delta`."""

from __future__ import annotations

import torch
from torch import Tensor

from dlmcache_cuda.reference.norm import rms_norm
from dlmcache_cuda.reference.rows import gather_rows, scatter_rows_


def delta_update_(
    delta: Tensor,
    h: Tensor,
    row_index: Tensor,
    attn_out: Tensor,
    ff_out: Tensor,
    places: Tensor,
    norm_weight: Tensor | None = None,
    eps: float = 1e-5,
    absolute: bool = False,
) -> tuple[Tensor, Tensor]:
    """See :func:`dlmcache_cuda.ops.delta_update_`; float64 is accepted too."""
    used = places >= 0
    computed, attn, ff = places[used], attn_out[used], ff_out[used]
    added = h[computed] + attn + ff if absolute else attn + ff
    scatter_rows_(delta, added, row_index[computed])
    carried = gather_rows(delta, row_index)
    unused = (row_index < 0)[:, None]
    # Unused entries are zeros even where their input is not a number.
    h_next = carried if absolute else torch.where(unused, 0.0, h + carried)
    if norm_weight is None:
        return h_next, h.new_empty(0)
    return h_next, torch.where(unused, 0.0, rms_norm(h_next, norm_weight, eps))
