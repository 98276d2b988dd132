"""Plain torch twin of :mod:`dlmcache_cuda.ops.attention_mass`."""

from __future__ import annotations

import torch
from torch import Tensor


def attention_mass(
    q: Tensor,
    k_cache: Tensor,
    cu_rows: Tensor,
    kv_lens: Tensor,
    capacity: int,
    scale: float,
    lse: Tensor | None = None,
    row_weight: Tensor | None = None,
) -> Tensor:
    """See :func:`dlmcache_cuda.ops.attention_mass`; float64 is accepted too."""
    wide = torch.promote_types(q.dtype, torch.float32)
    group = q.shape[1] // k_cache.shape[1]
    mass = q.new_zeros(len(kv_lens) * capacity, dtype=wide)
    for slot, num_keys in enumerate(kv_lens.tolist()):
        rows = slice(int(cu_rows[slot]), int(cu_rows[slot + 1]))
        keys = slice(slot * capacity, slot * capacity + num_keys)
        k = k_cache[keys].to(wide).repeat_interleave(group, dim=1)
        scores = torch.einsum("rhd,khd->rhk", q[rows].to(wide), k) * scale
        weights = scores.softmax(-1) if lse is None else (scores - lse[rows, :, None]).exp()
        if row_weight is not None:
            weights = weights * row_weight[rows, None, None]
        mass[keys] = weights.sum((0, 1))
    return mass


def rollout_step(
    z: Tensor,
    q: Tensor,
    k_cache: Tensor,
    row_index: Tensor,
    cu_rows: Tensor,
    kv_lens: Tensor,
    capacity: int,
    scale: float,
    lse: Tensor | None = None,
) -> Tensor:
    """See :func:`dlmcache_cuda.ops.rollout_step`; float64 is accepted too."""
    listed = row_index[: int(cu_rows[-1])]
    leaving = torch.zeros(len(row_index), dtype=z.dtype, device=z.device)
    leaving[: len(listed)] = 0.5 * z[listed]
    stays = z.clone()
    stays[listed] = 0.5 * z[listed]
    weight = leaving / max(1, q.shape[1])
    return stays + attention_mass(q, k_cache, cu_rows, kv_lens, capacity, scale, lse, weight)
