"""Samples of the swiglu family."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from dlmcache_cuda.testing.samples import Sample

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def samples(device: str = "cpu") -> Iterator[Sample]:
    generator = torch.Generator().manual_seed(0)
    for dtype in DTYPES:
        for rows, width in ((1, 1), (7, 129), (2, 768), (5, 16), (0, 8), (3, 0)):
            gate_up = torch.randn(rows, 2 * width, generator=generator) * 4
            yield Sample("swiglu", f"{dtype}-{rows}x{width}", (gate_up.to(device, dtype),))
        # A slice of a wider tensor; gates so large that exp overflows on one side.
        wide = torch.randn(4, 100, generator=generator) * 60
        yield Sample("swiglu", f"{dtype}-strided", (wide.to(device, dtype)[:, 3:77],))
