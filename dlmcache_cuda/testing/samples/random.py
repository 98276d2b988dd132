"""Samples of the random family."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from dlmcache_cuda.testing.samples import Sample


def samples(device: str = "cpu") -> Iterator[Sample]:
    seeds = torch.tensor([0, 1234567890123456789, -5], device=device)
    ticks = torch.tensor([0, 7, 2**33 + 1], device=device)
    rows = torch.tensor([0, 6, 7, 13, 14, 20, -1, -1], device=device)
    yield Sample("uniform_rows", "three-slots", (rows, 7, seeds, ticks, 1))
    yield Sample("uniform_rows", "stream", (rows, 7, seeds, ticks, 2**32 - 1))
    many = torch.arange(769, device=device)
    yield Sample("uniform_rows", "many", (many, 769, seeds[:1], ticks[1:2], 2))
    yield Sample("uniform_rows", "empty", (rows[:0], 7, seeds, ticks, 1))
    yield Sample("uniform_rows", "unused", (rows[6:], 7, seeds[:0], ticks[:0], 1))
