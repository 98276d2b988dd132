"""Samples of the delta family."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from dlmcache_cuda.testing.samples import Sample

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def samples(device: str = "cpu") -> Iterator[Sample]:
    generator = torch.Generator().manual_seed(0)

    def call(
        dtype, name, num_kept, width, index, places, norm=True, absolute=False, padding=0
    ) -> Sample:
        def randn(rows: int) -> torch.Tensor:
            wide = torch.randn(rows, width + padding, generator=generator).to(device, dtype)
            return wide[:, :width]

        delta = randn(num_kept).contiguous()
        h, attn_out, ff_out = randn(len(index)), randn(len(places)), randn(len(places))
        row_index, place = (
            torch.tensor(v, dtype=torch.int64, device=device) for v in (index, places)
        )
        weight = torch.randn(width, generator=generator).to(device, dtype) if norm else None
        arguments = (delta, h, row_index, attn_out, ff_out, place, weight, 1e-5, absolute)
        return Sample("delta_update_", f"{dtype}-{name}", arguments)

    for dtype in DTYPES:
        index, places = [0, 2, 3, 7, 9, 10, -1, -1], [1, 2, 5, -1]
        yield call(dtype, "vectors", 11, 64, index, places)
        yield call(dtype, "absolute", 11, 64, index, places, absolute=True)
        yield call(dtype, "no-norm", 11, 96, index, places, norm=False)
        yield call(dtype, "odd-strided", 6, 77, [1, 4, 5], [0, 2], padding=3)
        yield call(dtype, "wide", 4, 2100, [0, 1, 3], [1], absolute=True)
        yield call(dtype, "nothing-computed", 6, 40, [1, 4, 5, -1], [])
    yield call(torch.float32, "all-computed", 5, 48, [0, 1, 2, 3, 4], [0, 1, 2, 3, 4])
    yield call(torch.float32, "places-unused", 5, 48, [0, 4], [-1, -1])
    yield call(torch.float32, "rows-unused", 5, 48, [-1, -1], [-1])
    yield call(torch.float32, "empty", 5, 48, [], [])
    yield call(torch.bfloat16, "one", 1, 1, [0], [0])
