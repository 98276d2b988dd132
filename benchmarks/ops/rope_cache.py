"""Cases of rope_scatter_kv_."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.case import Case
from dlmcache_cuda import reference
from dlmcache_cuda.ops import rope_scatter_kv_

#: Name, query heads, key-value heads, head size, dtype.
MODELS = (
    ("llada-8b", 32, 32, 128, torch.bfloat16),
    ("llada-8b", 32, 32, 128, torch.float32),
    ("gqa", 28, 4, 128, torch.bfloat16),
    ("bundled", 4, 4, 24, torch.float32),
)
CAPACITY = 2048


def cases(device: str) -> Iterator[Case]:
    for name, heads, kv_heads, head_dim, dtype in MODELS:
        width = (heads + 2 * kv_heads) * head_dim
        k_cache = torch.zeros(CAPACITY, kv_heads, head_dim, dtype=dtype, device=device)
        v_cache = torch.zeros_like(k_cache)
        angles = torch.rand(CAPACITY, head_dim // 2, device=device)
        cos_sin = torch.cat((angles.cos(), angles.sin()), dim=-1)
        for num_rows in (32, 1024):
            qkv = torch.randn(num_rows, width, device=device).to(dtype)
            index = torch.randperm(CAPACITY, device=device)[:num_rows].sort().values
            arguments = (qkv, cos_sin, index, CAPACITY, heads, k_cache, v_cache)
            yield Case(
                "rope_scatter_kv_",
                f"{name} {num_rows} rows, {heads}/{kv_heads} heads x {head_dim} {str(dtype)[6:]}",
                lambda a=arguments: rope_scatter_kv_(*a),
                # Elements of qkv are read and written once; heads share their angles.
                2 * qkv.numel() * qkv.element_size() + num_rows * (4 * head_dim + 8),
                3 * num_rows * (heads + kv_heads) * head_dim,
                lambda a=arguments: reference.rope_scatter_kv_(*a),
            )
