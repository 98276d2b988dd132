"""Plain torch twin of :mod:`dlmcache_cuda.ops.attention`."""

from __future__ import annotations

import torch
from torch import Tensor


def attention_rows(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    cu_rows: Tensor,
    kv_lens: Tensor,
    capacity: int,
    scale: float,
    return_lse: bool = False,
) -> tuple[Tensor, Tensor]:
    """See :func:`dlmcache_cuda.ops.attention_rows`; float64 is accepted too."""
    wide = torch.promote_types(q.dtype, torch.float32)
    group = q.shape[1] // k_cache.shape[1]
    out = torch.zeros_like(q)
    lse = q.new_zeros(q.shape[:2] if return_lse else (0,), dtype=wide)
    for slot, num_keys in enumerate(kv_lens.tolist()):
        rows = slice(int(cu_rows[slot]), int(cu_rows[slot + 1]))
        keys = slice(slot * capacity, slot * capacity + num_keys)
        k = k_cache[keys].to(wide).repeat_interleave(group, dim=1)
        v = v_cache[keys].to(wide).repeat_interleave(group, dim=1)
        scores = torch.einsum("rhd,khd->rhk", q[rows].to(wide), k) * scale
        if return_lse:
            lse[rows] = scores.logsumexp(-1)
        out[rows] = torch.einsum("rhk,khd->rhd", scores.softmax(-1), v).to(q.dtype)
    return out, lse
