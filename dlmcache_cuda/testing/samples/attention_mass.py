"""Samples of the attention_mass family."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from dlmcache_cuda.testing.samples import Sample

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# name: rows per slot, unused rows, keys per slot, capacity, query heads, key/value heads, head size
LAYOUTS = {
    "one-row": ((1,), 0, (1,), 1, 1, 1, 2),
    "group-of-7": ((9,), 0, (140,), 150, 14, 2, 24),
    "slots": ((5, 0, 3, 2), 2, (13, 7, 29, 0), 31, 3, 1, 64),
    "head-128": ((16, 40), 4, (97, 66), 100, 2, 2, 128),
    "long": ((3, 2), 0, (1100, 600), 1100, 2, 1, 32),
    "no-rows": ((0, 0), 3, (5, 3), 8, 2, 1, 16),
}


def samples(device: str = "cpu") -> Iterator[Sample]:
    generator = torch.Generator().manual_seed(0)
    for number, (name, layout) in enumerate(LAYOUTS.items()):
        rows, unused, keys, capacity, heads, kv_heads, head_size = layout
        count, cache = sum(rows) + unused, len(rows) * capacity
        q = torch.randn(count, heads, head_size, generator=generator)
        k = torch.randn(cache, kv_heads, head_size, generator=generator)
        lse = torch.randn(count, heads, generator=generator) * 0.1 + 5
        weight = torch.rand(count, generator=generator)
        z = torch.rand(cache, generator=generator)
        listed = [
            torch.randperm(capacity, generator=generator)[:n].sort()[0] + slot * capacity
            for slot, n in enumerate(rows)
        ]
        row_index = torch.cat([*listed, torch.full((unused,), -1)]).to(device)
        lse, weight, z = (tensor.to(device) for tensor in (lse, weight, z))
        cu_rows = torch.tensor([0, *rows], device=device).cumsum(0)
        kv_lens = torch.tensor(keys, device=device)
        for dtype in DTYPES if name in ("group-of-7", "head-128") else DTYPES[:1]:
            attention = (q.to(device, dtype), k.to(device, dtype))
            rest = (kv_lens, capacity, head_size**-0.5)
            options = {} if number % 2 else {"row_weight": weight}
            yield Sample("attention_mass", f"{dtype}-{name}", (*attention, cu_rows, *rest), options)
            if dtype != torch.float16:
                args = (z, *attention, row_index, cu_rows, *rest)
                yield Sample("rollout_step", f"{dtype}-{name}", args)
        if name in ("slots", "long"):
            args = (*attention, cu_rows, *rest, lse)
            yield Sample("attention_mass", f"{name}-lse", args)
            yield Sample("rollout_step", f"{name}-lse", (z, *attention, row_index, *args[2:]))
