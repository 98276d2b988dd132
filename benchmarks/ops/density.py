"""Cases of density: half of the canvas is the region, half of it known."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.case import Case
from dlmcache_cuda import ops, reference


def cases(device: str) -> Iterator[Case]:
    for slots, capacity, sigma in (
        (1, 164, 10.0),
        (8, 1024, 10.0),
        (1, 4096, 10.0),
        (1, 2048, 300.0),
    ):
        known = torch.rand(slots * capacity, device=device) < 0.5
        begin = torch.full((slots,), capacity // 2, device=device)
        end = torch.full((slots,), capacity, device=device)
        arguments = (known, begin, end, capacity, sigma)
        region = capacity - capacity // 2
        yield Case(
            op="density",
            name=f"{slots} slots of {capacity}, sigma {sigma:g}",
            run=lambda arguments=arguments: ops.density(*arguments),
            bytes=5 * slots * capacity,
            flops=2 * slots * region * min(3 * region, int(29 * sigma)),
            baseline=lambda arguments=arguments: reference.density(*arguments),
        )
