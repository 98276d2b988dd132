"""Samples of the sample family.

Decisions have margins, since tokens must equal the float64 reference's: logits are multiples of a
half, exact in every dtype, and limits of top-p lie between the sums that occur.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from dlmcache_cuda.testing.samples import Sample

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def stepped_logits(rows: int, vocab: int, seed: int = 0) -> Tensor:
    """``[rows, vocab]`` fp32: a few ids 1/2 apart at the top, the rest far below with ties."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randint(-24, -16, (rows, vocab), generator=generator) / 2.0
    for row in logits:
        top = torch.randperm(vocab, generator=generator)[:6]
        row[top] = 3.0 - torch.arange(len(top)) / 2.0
    return logits


def samples(device: str = "cpu") -> Iterator[Sample]:
    noise = {
        "row_index": torch.tensor([0, 8, 9, 17, -1], device=device),
        "capacity": 9,
        "seeds": torch.tensor([3, 2**40 + 1], device=device),
        "steps": torch.tensor([0, 5], device=device),
    }
    for dtype in DTYPES:
        logits = stepped_logits(5, 513).to(dtype).to(device)
        for score in (0, 1, 2):
            options = {"temperature": 0.5, "top_p": 0.8, "top_k": 3, "score": score, **noise}
            yield Sample("sample_rows", f"{dtype}-all-{score}", (logits,), options)
        yield Sample("sample_rows", f"{dtype}-top-p", (logits,), {"top_p": 0.7, "score": 2})
    logits = stepped_logits(4, 4100).to(device)
    yield Sample("sample_rows", "plain", (logits,))
    yield Sample("sample_rows", "margin", (logits,), {"score": 1})
    yield Sample("sample_rows", "top-k", (logits,), {"top_k": 2, "score": 2})
    yield Sample("sample_rows", "strided", (logits[::2],), {"top_p": 0.55, "score": 1})
    yield Sample("sample_rows", "one-id", (logits[:, :1],), {"top_p": 0.1, "top_k": 1, "score": 1})
    unused = torch.full((4,), -1, device=device)
    yield Sample("sample_rows", "unused", (logits,), {"row_index": unused, "score": 1})
    yield Sample("sample_rows", "empty", (logits[:0],), {"top_k": 3})
