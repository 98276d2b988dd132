"""Samples of the attention family."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from dlmcache_cuda.testing.samples import Sample

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# name: rows per slot, unused rows, keys per slot, capacity, query heads, key/value heads, head size
LAYOUTS = {
    "one-row": ((1,), 0, (1,), 1, 1, 1, 1),
    "odd": ((5, 0, 3), 2, (13, 7, 29), 31, 3, 1, 7),
    "group-of-7": ((9,), 0, (140,), 150, 14, 2, 24),
    "no-keys": ((2, 3), 1, (0, 40), 40, 4, 4, 64),
    "long": ((3, 2), 0, (1100, 600), 1100, 2, 1, 32),
    "head-128": ((16, 4), 4, (97, 66), 100, 2, 2, 128),
    "no-rows": ((0, 0), 0, (5, 3), 8, 2, 1, 16),
}


def samples(device: str = "cpu") -> Iterator[Sample]:
    generator = torch.Generator().manual_seed(0)
    for dtype in DTYPES:
        for name, (rows, unused, keys, capacity, heads, kv_heads, head_size) in LAYOUTS.items():
            cache = (len(rows) * capacity, kv_heads, head_size)
            q = torch.randn(sum(rows) + unused, heads, head_size, generator=generator)
            k, v = (torch.randn(cache, generator=generator) for _ in range(2))
            args = (
                *(tensor.to(device, dtype) for tensor in (q, k, v)),
                torch.tensor([0, *rows], device=device).cumsum(0),
                torch.tensor(keys, device=device),
                capacity,
                head_size**-0.5,
            )
            yield Sample("attention_rows", f"{dtype}-{name}", args, {"return_lse": name != "odd"})
