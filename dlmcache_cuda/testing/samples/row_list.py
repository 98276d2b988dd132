"""Samples of the row_list family."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from dlmcache_cuda.testing.samples import Sample


def samples(device: str = "cpu") -> Iterator[Sample]:
    generator = torch.Generator().manual_seed(0)

    def vector(*values: int) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int64, device=device)

    def random_flags(size: int, density: float = 0.5) -> torch.Tensor:
        return (torch.rand(size, generator=generator) < density).to(device)

    yield Sample("build_rows", "range", (vector(3), vector(11), 16, 20))
    yield Sample("build_rows", "full", (vector(0, 0), vector(7, 7), 7, 14))
    # The second slot is empty, the third has begin behind end, the fourth ends with the canvas.
    begin, end = vector(2, 0, 5, 30), vector(30, 0, 4, 37)
    yield Sample("build_rows", "slots", (begin, end, 37, 50))
    flags = random_flags(4 * 37)
    yield Sample("build_rows", "flags", (begin, end, 37, 50, flags))
    limit = vector(5, 5, 5, 0)
    yield Sample("build_rows", "limit", (begin, end, 37, 12), {"limit": limit})
    limit = vector(4, 1, 2, 99)
    yield Sample("build_rows", "flags-limit", (begin, end, 37, 64, flags, limit))
    yield Sample("build_rows", "nothing", (begin, end, 37, 8, torch.zeros_like(flags)))
    yield Sample("build_rows", "no-entries", (vector(4), vector(4), 9, 0))
    yield Sample("build_rows", "no-slots", (vector(), vector(), 9, 3))
    # More than one block-wide tile of positions per slot.
    long = (vector(1, 700), vector(2999, 2500), 3000, 4096, random_flags(6000, 0.4))
    yield Sample("build_rows", "long", (*long, vector(1 << 40, 300)))

    rows, offsets = vector(0, 3, 4, 9, 12, 20, 29, -1, -1), vector(0, 4, 4, 7)
    query = vector(29, 0, -1, 1, 4, 4, 10, 19, 20, 28, 9)
    yield Sample("find_rows", "slots", (rows, offsets, query, 10))
    yield Sample("find_rows", "empty-query", (rows, offsets, vector(), 10))
    yield Sample("find_rows", "empty-list", (vector(), vector(0, 0), vector(3, -1), 10))
    yield Sample("find_rows", "unused", (vector(-1, -1), vector(0, 0), vector(0, 3), 10))
    listed = torch.nonzero(random_flags(2000, 0.3)).flatten()
    offsets = torch.searchsorted(listed, vector(0, 1000, 2000))
    query = torch.randint(-1, 2000, (777,), generator=generator).to(device)
    yield Sample("find_rows", "random", (listed, offsets, query, 1000))
