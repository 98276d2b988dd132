"""Samples of the rope_cache family."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from dlmcache_cuda.testing.samples import Sample

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def samples(device: str = "cpu") -> Iterator[Sample]:
    generator = torch.Generator().manual_seed(0)

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    def call(dtype, name, heads, kv_heads, head_dim, capacity, slots, index, padding=0) -> Sample:
        width = (heads + 2 * kv_heads) * head_dim
        qkv = randn(len(index), width + padding).to(device, dtype)[:, : width or None]
        caches = [randn(slots * capacity, kv_heads, head_dim).to(device, dtype) for _ in range(2)]
        # Any angles do: the operator does not know where they come from.
        angle = randn(capacity, head_dim // 2) * 3
        cos_sin = torch.cat((angle.cos(), angle.sin()), dim=-1).to(device)
        row_index = torch.tensor(index, dtype=torch.int64, device=device)
        arguments = (qkv, cos_sin, row_index, capacity, heads, *caches)
        return Sample("rope_scatter_kv_", f"{dtype}-{name}", arguments)

    for dtype in DTYPES:
        yield call(dtype, "gqa", 4, 2, 32, 13, 3, [0, 5, 12, 26, 27, 38, -1, -1])
        yield call(dtype, "odd", 3, 3, 6, 5, 1, [1, 4, -1])
        yield call(dtype, "strided", 2, 2, 16, 7, 2, [6, 7, 13], padding=3)
        yield call(dtype, "keys-only", 0, 2, 8, 4, 2, [3, 4, -1])
        yield call(dtype, "queries-only", 3, 0, 16, 5, 2, [0, 4, 9, -1])
        yield call(dtype, "unused", 2, 1, 16, 4, 1, [-1, -1])
    yield call(torch.float32, "empty", 2, 1, 16, 4, 1, [])
    yield call(torch.float32, "queries-only-odd", 2, 0, 6, 4, 2, [1, 7, -1], padding=1)
    yield call(torch.float32, "smallest", 1, 1, 2, 1, 1, [0])
    yield call(torch.bfloat16, "llada", 32, 32, 128, 3, 1, [0, 2])
