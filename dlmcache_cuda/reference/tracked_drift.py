"""Plain torch twin of :mod:`dlmcache_cuda.ops.tracked_drift`."""

from __future__ import annotations

import torch
from torch import Tensor


def tracked_similarity(
    q_old: Tensor,
    q_new: Tensor,
    k_cache: Tensor,
    k_old: Tensor,
    row_index: Tensor,
    cu_rows: Tensor,
    cu_tracked: Tensor,
    kv_lens: Tensor,
    capacity: int,
    scale: float,
    similarity: int,
) -> Tensor:
    """See :func:`dlmcache_cuda.ops.tracked_similarity`; float64 is accepted too."""
    wide = torch.promote_types(q_old.dtype, torch.float32)
    group = q_old.shape[1] // k_cache.shape[1]
    num_rows = int(cu_rows[-1])
    keys_before = k_cache.clone()
    keys_before[row_index[:num_rows]] = k_old[:num_rows]

    def weights(q: Tensor, keys: Tensor) -> Tensor:
        keys = keys.to(wide).repeat_interleave(group, dim=1)
        return (torch.einsum("thd,khd->thk", q.to(wide), keys) * scale).softmax(-1)

    result = q_old.new_ones(len(kv_lens), dtype=wide)
    for slot, num_keys in enumerate(kv_lens.tolist()):
        tracked = slice(int(cu_tracked[slot]), int(cu_tracked[slot + 1]))
        if tracked.start == tracked.stop or num_keys == 0:
            continue
        keys = slice(slot * capacity, slot * capacity + num_keys)
        before = weights(q_old[tracked], keys_before[keys])
        after = weights(q_new[tracked], k_cache[keys])
        axis = 1 if similarity == 0 else 2  # of [T, H, keys]
        norms = (weight.norm(dim=axis).clamp_min(1e-8) for weight in (before, after))
        dots = (before * after).sum(axis)
        for norm in norms:
            dots = dots / norm
        result[slot] = dots.mean()
    return result
