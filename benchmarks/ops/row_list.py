"""Row lists: masked rows of a canvas, and the places of candidates among computed rows."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.case import Case
from dlmcache_cuda import ops, reference


def cases(device: str) -> Iterator[Case]:
    generator = torch.Generator().manual_seed(0)
    for num_slots, capacity in ((1, 384), (1, 4096), (16, 1024), (64, 8192)):
        size = num_slots * capacity
        flags = (torch.rand(size, generator=generator) < 0.25).to(device)
        begin = torch.full((num_slots,), capacity // 4, device=device)
        end = torch.full((num_slots,), capacity, device=device)
        arguments = (begin, end, capacity, size, flags)
        yield Case(
            op="build_rows",
            name=f"{num_slots} slots of {capacity}",
            run=lambda arguments=arguments: ops.build_rows(*arguments),
            bytes=size * 3 // 4 + 8 * size,
            flops=0,
            baseline=lambda arguments=arguments: reference.build_rows(*arguments),
        )
        row_index, cu_rows = ops.build_rows(*arguments)
        query = row_index[row_index >= 0][::4].contiguous()
        lookup = (row_index, cu_rows, query, capacity)
        yield Case(
            op="find_rows",
            name=f"{query.shape[0]} rows in {num_slots} slots of {capacity}",
            run=lambda lookup=lookup: ops.find_rows(*lookup),
            bytes=8 * 2 * query.shape[0] + 8 * int(cu_rows[-1]),
            flops=0,
            baseline=lambda lookup=lookup: reference.find_rows(*lookup),
        )
