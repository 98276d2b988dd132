"""Cases of track_layers_."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.case import Case
from benchmarks.ops.layers import CAPACITY, LAYERS, WIDTH
from benchmarks.ops.layers import cases as layers_cases
from dlmcache_cuda import reference
from dlmcache_cuda.ops import track_layers_


def cases(device: str) -> Iterator[Case]:
    if device != "cpu":
        return
    for plain in layers_cases(device):
        arguments = plain.run.__defaults__[0]
        yield _case(plain, arguments)


def _case(plain: Case, arguments: tuple) -> Case:
    """The rows of a plain case; 16 of them are the window, and 6 others are tracked."""
    num_rows = len(arguments[4])
    window, tracked = torch.arange(num_rows - 16, num_rows), torch.arange(6)
    ends = [torch.tensor([0, len(index)]) for index in (tracked, window, torch.arange(CAPACITY))]
    tracking = (
        0,
        torch.randn(LAYERS, CAPACITY, WIDTH),
        torch.zeros(LAYERS, CAPACITY, dtype=torch.bool),
        tracked,
        ends[0],
        torch.tensor([True]),
        -1.0,
        0,
        window,
        ends[1],
        torch.arange(CAPACITY),
        ends[2],
        torch.tensor([1]),
    )
    return Case(
        "track_layers_",
        plain.name,
        lambda: track_layers_(*arguments, *tracking),
        plain.bytes + 8 * LAYERS * num_rows * WIDTH,
        plain.flops,
        lambda: reference.track_layers_(*arguments, *tracking),
    )
