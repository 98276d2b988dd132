"""Cases of select_rows: a quarter of the rows of every slot."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.case import Case
from dlmcache_cuda import reference
from dlmcache_cuda.ops import select_rows


def cases(device: str) -> Iterator[Case]:
    for num_slots, rows_per_slot in ((1, 256), (1, 4096), (16, 1024), (64, 4096)):
        size = num_slots * rows_per_slot
        score = torch.rand(size, device=device)
        row_index = torch.arange(size, device=device)
        cu_rows = torch.arange(0, size + 1, rows_per_slot, device=device)
        k = torch.full((num_slots,), rows_per_slot // 4, device=device)
        arguments = (score, row_index, cu_rows, k, size // 4)
        yield Case(
            "select_rows",
            f"{rows_per_slot // 4} of {rows_per_slot} rows in {num_slots} slots",
            lambda a=arguments: select_rows(*a),
            4 * size + 24 * (size // 4),
            0,
            lambda a=arguments: reference.select_rows(*a),
        )
