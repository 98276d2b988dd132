"""Samples of the select family."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from dlmcache_cuda.testing.samples import Sample


def samples(device: str = "cpu") -> Iterator[Sample]:
    generator = torch.Generator().manual_seed(0)

    def vector(values) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int64, device=device)

    def call(name, score, offsets, k, max_rows, largest=True, unused=0) -> Sample:
        """A list of ``len(score)`` entries of which the last ``unused`` are unused."""
        rows = torch.cat([torch.arange(len(score) - unused) * 3 + 1, torch.full((unused,), -1)])
        arguments = (score.to(device), rows.to(device), vector(offsets), vector(k), max_rows)
        return Sample("select_rows", name, arguments, {"largest": largest})

    def random(size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator)

    def coarse(size: int) -> torch.Tensor:
        return torch.randint(-2, 3, (size,), generator=generator).float() * 0.25

    special = torch.tensor([1.0, torch.nan, -torch.inf, 0.0, -0.0, torch.inf, -1.0, torch.nan, 2.0])
    for largest in (True, False):
        name = "largest" if largest else "smallest"
        yield call(f"{name}-one-slot", random(40), [0, 40], [13], 13, largest)
        # The second slot is empty, the third asks for all, the fourth for none, the fifth for more.
        offsets, k = [0, 30, 30, 41, 60, 65], [7, 3, 11, 0, 99]
        yield call(f"{name}-slots", random(70), offsets, k, 30, largest, unused=5)
        yield call(f"{name}-ties", coarse(70), offsets, k, 23, largest, unused=5)
        for count in range(1, 9, 3):
            yield call(f"{name}-special-{count}", special, [0, 9], [count], 9, largest)
        long, offsets = coarse(5000), [0, 3000, 5000]
        yield call(f"{name}-long", long + 1e-3 * random(5000), offsets, [900, 500], 1500, largest)
        yield call(f"{name}-long-ties", long, offsets, [900, 500], 1400, largest)
    yield call("negative-k", random(6), [0, 6], [-2], 4)
    yield call("all-unused", random(3), [0, 0, 0], [2, 2], 4, unused=3)
    yield call("no-entries", random(0), [0, 0], [2], 0)
    yield call("no-slots", random(0), [0], [], 3)
