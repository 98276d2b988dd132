"""Plain torch twin of :mod:`dlmcache_cuda.ops.rope_cache`."""

from __future__ import annotations

import torch
from torch import Tensor

from dlmcache_cuda.reference.rows import gather_rows, scatter_rows_


def rope_scatter_kv_(
    qkv: Tensor,
    cos_sin: Tensor,
    row_index: Tensor,
    capacity: int,
    num_heads: int,
    k_cache: Tensor,
    v_cache: Tensor,
) -> Tensor:
    """See :func:`dlmcache_cuda.ops.rope_scatter_kv_`; float64 is accepted too."""
    num_kv_heads, head_dim = k_cache.shape[1:]
    heads = qkv.reshape(qkv.shape[0], num_heads + 2 * num_kv_heads, head_dim)
    turning, value = heads.split((num_heads + num_kv_heads, num_kv_heads), dim=1)

    position = torch.where(row_index < 0, row_index, row_index % capacity)
    cos, sin = gather_rows(cos_sin, position).unsqueeze(1).chunk(2, dim=-1)
    low, high = turning.to(torch.promote_types(qkv.dtype, torch.float32)).chunk(2, dim=-1)
    turned = torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1).to(qkv.dtype)

    query, key = turned.split((num_heads, num_kv_heads), dim=1)
    scatter_rows_(k_cache, key, row_index)
    scatter_rows_(v_cache, value, row_index)
    # Unused entries are zeros even where their input is not a number.
    return torch.where((row_index < 0).view(-1, 1, 1), torch.zeros_like(query), query).contiguous()
