"""sample_rows, against sorting, filtering and multinomial of plain torch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.case import Case
from dlmcache_cuda import ops

# Name, rows, vocabulary.
SHAPES = (
    ("bundled", 32, 96),
    ("LLaDA-8B", 32, 126464),
    ("Dream-7B", 1, 152064),
    ("Dream-7B", 32, 152064),
)
TEMPERATURE, TOP_P = 0.2, 0.95


def plain(logits: Tensor) -> tuple[Tensor, Tensor]:
    larger_first, ids = (logits.float() / TEMPERATURE).sort(-1, descending=True)
    p = larger_first.softmax(-1)
    p[p.cumsum(-1) - p > TOP_P] = 0
    p /= p.sum(-1, keepdim=True)
    place = torch.multinomial(p, 1)
    entropy = torch.special.xlogy(p, p).sum(-1)
    return ids.gather(-1, place)[:, 0], entropy


def cases(device: str) -> Iterator[Case]:
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    for name, rows, vocab in SHAPES:
        generator = torch.Generator(device).manual_seed(0)
        logits = torch.randn(rows, vocab, generator=generator, device=device)
        logits = (3 * logits).to(dtype)
        place = {
            "row_index": torch.arange(rows, device=device),
            "capacity": rows,
            "seeds": torch.zeros(1, dtype=torch.int64, device=device),
            "steps": torch.zeros(1, dtype=torch.int64, device=device),
        }
        for suffix, options in (
            (", temperature and top-p", {"temperature": TEMPERATURE, "top_p": TOP_P} | place),
            (", top-k", {"top_k": 50}),
        ):
            yield Case(
                "sample_rows",
                f"{name}, {rows} x {vocab}{suffix}",
                lambda x=logits, o=options: ops.sample_rows(x, score=2, **o),
                bytes=logits.numel() * (logits.element_size() + 8) + rows * 16,
                flops=8 * logits.numel(),
                baseline=(lambda x=logits: plain(x)) if "top_p" in options else None,
            )
