"""Cases of attention_rows. Bytes count each slot's keys and values once; the baseline calls torch's
attention slot by slot."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.case import Case
from dlmcache_cuda.ops import attention_rows

#: Name, rows per slot, keys of a slot, query heads, key/value heads, head size, dtype.
MODELS = (
    ("llada-8b", (32,), 1024, 32, 32, 128, torch.bfloat16),
    ("llada-8b", (32,), 1024, 32, 32, 128, torch.float32),
    ("llada-8b", (1,), 1024, 32, 32, 128, torch.bfloat16),
    ("llada-8b", (1024,), 1024, 32, 32, 128, torch.bfloat16),
    ("llada-8b", (32, 32, 32, 32), 1024, 32, 32, 128, torch.bfloat16),
    ("llada-8b", (32,), 8192, 32, 32, 128, torch.bfloat16),
    ("llada-8b", (512,), 2048, 32, 32, 128, torch.bfloat16),
    ("grouped", (32,), 1024, 28, 4, 128, torch.bfloat16),
    ("bundled", (16,), 164, 4, 4, 24, torch.float32),
    ("bundled", (16,) * 8, 164, 4, 4, 24, torch.float32),
    ("bundled", (164,), 164, 4, 4, 24, torch.float32),
)


def torch_attention(q: Tensor, k: Tensor, v: Tensor, rows: tuple[int, ...]) -> list[Tensor]:
    """One call per slot; heads before rows, as torch wants them, by strides alone."""
    slots = zip(q.split(rows), k.chunk(len(rows)), v.chunk(len(rows)), strict=True)
    return [
        F.scaled_dot_product_attention(
            *(tensor.transpose(0, 1)[None] for tensor in slot),
            enable_gqa=q.shape[1] != k.shape[1],
        )
        for slot in slots
    ]


def cases(device: str) -> Iterator[Case]:
    for name, rows, keys, heads, kv_heads, head_size, dtype in MODELS:
        q = torch.randn(sum(rows), heads, head_size, device=device).to(dtype)
        cache = (len(rows) * keys, kv_heads, head_size)
        k, v = (torch.randn(cache, device=device).to(dtype) for _ in range(2))
        cu_rows = torch.tensor([0, *rows], device=device).cumsum(0)
        kv_lens = torch.full((len(rows),), keys, device=device)
        heads_text = f"{heads} heads" if heads == kv_heads else f"{heads}:{kv_heads} heads"
        yield Case(
            "attention_rows",
            f"{name} {len(rows)} x {rows[0]} rows x {keys} keys, {heads_text} x {head_size} "
            f"{str(dtype)[6:]}",
            lambda a=(q, k, v, cu_rows, kv_lens, keys, head_size**-0.5): attention_rows(*a),
            (2 * q.numel() + k.numel() + v.numel()) * q.element_size(),
            4 * sum(rows) * keys * heads * head_size,
            lambda a=(q, k, v, rows): torch_attention(*a),
        )
