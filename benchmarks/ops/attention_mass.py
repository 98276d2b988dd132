"""Cases of attention_mass and rollout_step. Bytes count each slot's keys once; the baseline
materialises the attention weights of one slot after the other."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.case import Case
from dlmcache_cuda import ops, reference

#: Name, rows per slot, keys of a slot, query heads, key/value heads, head size, dtype.
MODELS = (
    ("llada-8b", (32,), 1024, 32, 32, 128, torch.bfloat16),
    ("llada-8b", (1024,), 1024, 32, 32, 128, torch.bfloat16),
    ("llada-8b", (32, 32, 32, 32), 1024, 32, 32, 128, torch.bfloat16),
    ("grouped", (32,), 1024, 28, 4, 128, torch.bfloat16),
    ("bundled", (16,) * 8, 164, 4, 4, 24, torch.float32),
)


def cases(device: str) -> Iterator[Case]:
    for name, rows, keys, heads, kv_heads, head_size, dtype in MODELS:
        slots = len(rows)
        q = torch.randn(sum(rows), heads, head_size, device=device).to(dtype)
        k = torch.randn(slots * keys, kv_heads, head_size, device=device).to(dtype)
        cu_rows = torch.tensor([0, *rows], device=device).cumsum(0)
        kv_lens = torch.full((slots,), keys, device=device)
        rest = (cu_rows, kv_lens, keys, head_size**-0.5)
        _, lse = ops.attention_rows(q, k, k, *rest, return_lse=True)
        z = torch.ones(slots * keys, device=device)
        listed = [torch.arange(n, device=device) + s * keys for s, n in enumerate(rows)]
        calls = {
            "with lse": ("attention_mass", (q, k, *rest, lse)),
            "without lse": ("attention_mass", (q, k, *rest)),
            "rollout": ("rollout_step", (z, q, k, torch.cat(listed), *rest, lse)),
        }
        heads_text = f"{heads} heads" if heads == kv_heads else f"{heads}:{kv_heads} heads"
        for what, (op, args) in calls.items():
            passes = 2 if what == "without lse" else 1
            yield Case(
                op,
                f"{name} {slots} x {rows[0]} rows x {keys} keys, {heads_text} x {head_size} "
                f"{str(dtype)[6:]}, {what}",
                lambda op=op, args=args: getattr(ops, op)(*args),
                (q.numel() + passes * k.numel()) * q.element_size() + 4 * slots * keys,
                2 * passes * sum(rows) * keys * heads * head_size,
                lambda op=op, args=args: getattr(reference, op)(*args),
            )
