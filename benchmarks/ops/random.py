"""Random numbers of rows, against torch's generator."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.case import Case
from dlmcache_cuda import ops


def cases(device: str) -> Iterator[Case]:
    seeds, ticks = torch.zeros(2, 1, dtype=torch.int64, device=device).unbind()
    for rows in (32, 1024, 65536):
        index = torch.arange(rows, device=device)
        yield Case(
            "uniform_rows",
            f"{rows} rows",
            lambda index=index, rows=rows: ops.uniform_rows(index, rows, seeds, ticks, 1),
            bytes=rows * (8 + 4),
            flops=0,
            # Not the same thing: torch's numbers depend on the order of calls.
            baseline=lambda rows=rows: torch.rand(rows, device=device),
        )
