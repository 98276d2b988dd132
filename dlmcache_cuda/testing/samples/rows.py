"""Samples of the rows family."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from dlmcache_cuda.testing.samples import Sample

#: Every size of an element, rows of odd and even sizes, one and more dimensions.
CASES = (
    (torch.float32, (11, 769)),
    (torch.bfloat16, (9, 3, 16)),
    (torch.float16, (5, 129)),
    (torch.int64, (40,)),
    (torch.float32, (40,)),
    (torch.bool, (7, 13)),
    (torch.int32, (1, 1)),
)


def samples(device: str = "cpu") -> Iterator[Sample]:
    generator = torch.Generator().manual_seed(0)
    for dtype, shape in CASES:
        buffer = _values(shape, dtype, generator).to(device)
        # Ascending as the lists of the decoder, unused entries at the end.
        used = torch.nonzero(torch.rand(shape[0], generator=generator) < 0.6).flatten()
        index = torch.cat((used, torch.full((2,), -1))).to(device)
        name = f"{dtype}-{'x'.join(map(str, shape))}"
        yield Sample("gather_rows", name, (buffer, index))
        rows = _values((index.shape[0], *shape[1:]), dtype, generator).to(device)
        yield Sample("scatter_rows_", name, (buffer, rows, index))

    buffer = torch.randn(6, 8, generator=generator).to(device)
    anywhere = torch.tensor([5, 0, 2, 2, -1], device=device)
    yield Sample("gather_rows", "repeated", (buffer, anywhere))
    index = torch.tensor([5, 0, -1, 2], device=device)
    rows = torch.randn(4, 8, generator=generator).to(device)
    yield Sample("scatter_rows_", "unordered", (buffer, rows, index))
    unused = torch.full((3,), -1, device=device)
    yield Sample("gather_rows", "unused", (buffer, unused))
    yield Sample("scatter_rows_", "unused", (buffer, rows[:3], unused))
    yield Sample("gather_rows", "empty-buffer", (buffer[:0], unused))
    yield Sample("gather_rows", "empty-list", (buffer, unused[:0]))
    yield Sample("scatter_rows_", "empty-list", (buffer, rows[:0], unused[:0]))
    yield Sample("gather_rows", "empty-rows", (buffer.new_empty((4, 0)), anywhere.clamp(max=3)))


def _values(shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    return (torch.randn(shape, generator=generator) * 50).to(dtype)
