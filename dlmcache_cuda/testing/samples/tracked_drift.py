"""Samples of the tracked_drift family."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from dlmcache_cuda.testing.samples import Sample

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# name: tracked rows per slot, replaced keys per slot, unused of both, keys per slot, capacity,
# query heads, key/value heads, head size
LAYOUTS = {
    "one-key": ((1,), (1,), 0, (1,), 1, 1, 1, 2),
    "group-of-7": ((3,), (20,), 0, (140,), 150, 14, 2, 24),
    "slots": ((2, 0, 1, 1), (5, 3, 0, 2), 2, (13, 7, 29, 0), 31, 3, 1, 64),
    "head-128": ((1, 17), (16, 100), 1, (97, 230), 230, 2, 2, 128),
    "long": ((1, 2), (40, 3), 0, (1100, 600), 1100, 4, 4, 32),
    "nothing-tracked": ((0, 0), (2, 1), 1, (5, 3), 8, 2, 1, 16),
}


def samples(device: str = "cpu") -> Iterator[Sample]:
    generator = torch.Generator().manual_seed(0)
    for name, layout in LAYOUTS.items():
        tracked, replaced, unused, keys, capacity, heads, kv_heads, head_size = layout
        q_old = torch.randn(sum(tracked) + unused, heads, head_size, generator=generator)
        q_new = q_old + 0.5 * torch.randn(q_old.shape, generator=generator)
        k = torch.randn(len(keys) * capacity, kv_heads, head_size, generator=generator)
        k_old = torch.randn(sum(replaced) + unused, kv_heads, head_size, generator=generator)
        listed = [
            torch.randperm(capacity, generator=generator)[:n].sort()[0] + slot * capacity
            for slot, n in enumerate(replaced)
        ]
        indices = (
            torch.cat([*listed, torch.full((unused,), -1)]).to(device),
            torch.tensor([0, *replaced], device=device).cumsum(0),
            torch.tensor([0, *tracked], device=device).cumsum(0),
            torch.tensor(keys, device=device),
        )
        for dtype in DTYPES if name in ("group-of-7", "head-128") else DTYPES[:1]:
            data = (tensor.to(device, dtype) for tensor in (q_old, q_new, k, k_old))
            args = (*data, *indices, capacity, head_size**-0.5)
            for similarity in (0, 1):
                full = f"{dtype}-{name}-{'rows' if similarity else 'heads'}"
                yield Sample("tracked_similarity", full, (*args, similarity))
