"""Samples of the density family."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from dlmcache_cuda.testing.samples import Sample


def samples(device: str = "cpu") -> Iterator[Sample]:
    generator = torch.Generator().manual_seed(0)

    def vector(*values: int) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int64, device=device)

    def random_known(size: int) -> torch.Tensor:
        return (torch.rand(size, generator=generator) < 0.5).to(device)

    yield Sample("density", "one", (random_known(1), vector(0), vector(1), 1, 10.0))
    # The second slot has no region, the third one that ends before it begins, the fourth fills it.
    begin, end = vector(5, 0, 9, 0), vector(30, 0, 4, 37)
    for sigma in (0.3, 2.5, 10.0, 1e4):
        yield Sample("density", f"sigma-{sigma}", (random_known(4 * 37), begin, end, 37, sigma))
    all_known = torch.ones(40, dtype=torch.bool, device=device)
    yield Sample("density", "all", (all_known, vector(10), vector(40), 40, 10.0))
    yield Sample("density", "none", (~all_known, vector(10), vector(40), 40, 10.0))
    yield Sample(
        "density", "long", (random_known(1400), vector(188, 3), vector(700, 650), 700, 10.0)
    )
    yield Sample("density", "no-slots", (random_known(0), vector(), vector(), 9, 10.0))
    yield Sample("density", "no-positions", (random_known(0), vector(0), vector(0), 0, 10.0))
