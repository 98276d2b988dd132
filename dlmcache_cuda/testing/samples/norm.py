"""Samples of the norm family."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from dlmcache_cuda.testing.samples import Sample

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def samples(device: str = "cpu") -> Iterator[Sample]:
    generator = torch.Generator().manual_seed(0)
    for dtype in DTYPES:
        for rows, width in ((1, 1), (7, 129), (3, 769), (16, 96), (0, 64)):
            x = torch.randn(rows, width, generator=generator).to(device, dtype)
            weight = torch.randn(width, generator=generator).to(device, dtype)
            yield Sample("rms_norm", f"{dtype}-{rows}x{width}", (x, weight, 1e-5))
            y = torch.randn(rows, width, generator=generator).to(device, dtype)
            yield Sample("add_rms_norm", f"{dtype}-{rows}x{width}", (x, y, weight, 1e-5))
        # A slice of a wider tensor, and a row list with a repeat and unused entries.
        wide = torch.randn(9, 200, generator=generator).to(device, dtype)
        weight = torch.randn(130, generator=generator).to(device, dtype)
        yield Sample(
            "add_rms_norm", f"{dtype}-slices", (wide[:, 10:140], wide[:, :130], weight, 1e-5)
        )
        index = torch.tensor([8, 0, 3, 3, -1, -1], device=device)
        yield Sample("rms_norm", f"{dtype}-gather", (wide[:, 10:140], weight, 1e-5, index))
        nothing = torch.full((3,), -1, device=device)
        yield Sample("rms_norm", f"{dtype}-unused", (wide[:, :130], weight, 1e-5, nothing))
