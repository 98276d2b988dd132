"""Cases of tracked_similarity: one tracked row per slot, as Elastic-Cache has it, and several.
Bytes count each slot's keys twice, for the two passes; the baseline materialises weights and copies
the cache."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.case import Case
from dlmcache_cuda import ops, reference

#: Name, slots, tracked rows and replaced keys of each, keys, query heads, key/value heads, head
#: size, dtype.
MODELS = (
    ("llada-8b", 1, 1, 32, 1024, 32, 32, 128, torch.bfloat16),
    ("llada-8b", 1, 8, 32, 1024, 32, 32, 128, torch.bfloat16),
    ("llada-8b", 4, 1, 32, 1024, 32, 32, 128, torch.bfloat16),
    ("grouped", 1, 1, 32, 1024, 28, 4, 128, torch.bfloat16),
    ("bundled", 8, 1, 17, 164, 4, 4, 24, torch.float32),
)


def cases(device: str) -> Iterator[Case]:
    for name, slots, tracked, replaced, keys, heads, kv_heads, head_size, dtype in MODELS:
        q_old = torch.randn(slots * tracked, heads, head_size, device=device).to(dtype)
        k = torch.randn(slots * keys, kv_heads, head_size, device=device).to(dtype)
        k_old = torch.randn(slots * replaced, kv_heads, head_size, device=device).to(dtype)
        listed = [torch.arange(replaced, device=device) + s * keys for s in range(slots)]
        arguments = (
            q_old,
            q_old + 0.1 * torch.randn_like(q_old),
            k,
            k_old,
            torch.cat(listed),
            torch.arange(slots + 1, device=device) * replaced,
            torch.arange(slots + 1, device=device) * tracked,
            torch.full((slots,), keys, device=device),
            keys,
            head_size**-0.5,
        )
        for similarity, what in enumerate(("heads", "rows")):
            args = (*arguments, similarity)
            yield Case(
                "tracked_similarity",
                f"{name} {slots} x {tracked} rows x {keys} keys, {heads}:{kv_heads} heads x "
                f"{head_size} {str(dtype)[6:]}, {what}",
                lambda args=args: ops.tracked_similarity(*args),
                2 * (k.numel() + k_old.numel()) * k.element_size(),
                8 * slots * tracked * keys * heads * head_size,
                lambda args=args: reference.tracked_similarity(*args),
            )
