"""Samples of the drift family."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from dlmcache_cuda.testing.samples import Sample

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def samples(device: str = "cpu") -> Iterator[Sample]:
    generator = torch.Generator().manual_seed(0)

    def call(dtype, name, num_reference, width, index, stride=None, update=True) -> Sample:
        reference = torch.randn(num_reference, width, generator=generator).to(dtype)
        wide = torch.randn(len(index), stride or width, generator=generator).to(dtype)
        signal = wide[:, (stride or width) - width :]
        # Rows close to their references, which is what drifts are measured for; every third equals
        # its own, every other third lies anywhere.
        for row, place in enumerate(index):
            if place >= 0 and row % 3 < 2:
                signal[row] = reference[place] + (0.05 * signal[row] if row % 3 == 1 else 0)
        row_index = torch.tensor(index, dtype=torch.int64, device=device)
        arguments = (signal.to(device), reference.to(device), row_index, update)
        return Sample("cosine_drift_", f"{dtype}-{name}", arguments)

    for dtype in DTYPES:
        yield call(dtype, "vectors", 9, 64, [0, 2, 3, 5, 8, -1, -1])
        yield call(dtype, "odd", 5, 77, [4, 1, 0])
        # A column slice of a wider product, as in the cache's KV heads or a proxy.
        yield call(dtype, "strided", 12, 128, list(range(12)), stride=131)
        yield call(dtype, "kept", 6, 40, [1, 3, 5, -1], update=False)
        yield call(dtype, "wide", 2, 2100, [0, 1])
    zeros = torch.zeros(3, 16, device=device)
    mixed = torch.tensor([[0.0], [1.0], [0.0]], device=device) * torch.ones(16, device=device)
    index = torch.tensor([0, 1, 2], device=device)
    yield Sample("cosine_drift_", "zero-signal", (zeros, mixed, index))
    yield Sample("cosine_drift_", "zero-reference", (mixed, zeros, index))
    yield call(torch.float32, "unused", 2, 16, [-1, -1])
    yield call(torch.float32, "empty", 2, 16, [])
    yield call(torch.bfloat16, "one", 1, 1, [0])
