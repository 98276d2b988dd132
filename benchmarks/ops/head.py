"""head_reduce, against the logits, softmax and maximum of plain torch."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.case import Case
from dlmcache_cuda import ops

# Name, rows, width, vocabulary. The head of LLaDA-8B is too large for a CPU in fp32: there, its
# vocabulary on an eighth of its width.
SHAPES = {
    "cpu": (
        ("bundled checkpoint", 32, 96, 96),
        ("bundled checkpoint", 256, 96, 96),
        ("LLaDA vocabulary", 1, 512, 126464),
        ("LLaDA vocabulary", 32, 512, 126464),
    ),
    "cuda": (
        ("bundled checkpoint", 32, 96, 96),
        ("LLaDA-8B", 1, 4096, 126464),
        ("LLaDA-8B", 32, 4096, 126464),
        ("LLaDA-8B", 1024, 4096, 126464),
    ),
}


def plain(hidden: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    log_p = torch.log_softmax((hidden @ weight.T).float(), -1)
    return log_p.max(-1)


def cases(device: str) -> Iterator[Case]:
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    for name, rows, width, vocab in SHAPES[device]:
        generator = torch.Generator(device).manual_seed(0)
        hidden = torch.randn(rows, width, generator=generator, device=device, dtype=dtype)
        weight = torch.randn(vocab, width, generator=generator, device=device, dtype=dtype)
        weight /= width**0.5
        index = torch.arange(rows, device=device)
        zero = torch.zeros(1, dtype=torch.int64, device=device)
        variants = {
            "": {},
            ", extras": {"extras": True},
            ", temperature": {
                "temperature": 0.5,
                "row_index": index,
                "capacity": rows,
                "seeds": zero,
                "steps": zero,
            },
        }
        for suffix, options in variants.items():
            yield Case(
                "head_reduce",
                f"{name}, {rows} x {width} x {vocab}{suffix}",
                lambda h=hidden, w=weight, o=options: ops.head_reduce(h, w, **o),
                bytes=(hidden.numel() + weight.numel()) * hidden.element_size() + rows * 12,
                flops=2 * rows * width * vocab,
                baseline=None if suffix else lambda h=hidden, w=weight: plain(h, w),
            )
