"""Cases of gather_rows and scatter_rows_: hidden rows, cache rows, tokens."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.case import Case
from dlmcache_cuda.ops import gather_rows, scatter_rows_

#: Name, rows of the buffer, width, dtype: LLaDA-8B, the bundled checkpoint, a token buffer.
BUFFERS = (
    ("llada-8b", 4096, 4096, torch.bfloat16),
    ("bundled", 1024, 96, torch.float32),
    ("tokens", 65536, 1, torch.int64),
)


def cases(device: str) -> Iterator[Case]:
    for name, num_source, width, dtype in BUFFERS:
        buffer = torch.zeros(num_source, width, dtype=dtype, device=device)
        for num_rows in (32, 1024):
            index = torch.randperm(num_source, device=device)[:num_rows].sort().values
            rows = buffer[index].contiguous()
            moved = 2 * rows.numel() * rows.element_size() + 8 * num_rows
            shape = f"{name} {num_rows} of {num_source} x {width} {str(dtype)[6:]}"
            yield Case(
                "gather_rows",
                shape,
                lambda b=buffer, i=index: gather_rows(b, i),
                moved,
                0,
                lambda b=buffer, i=index: b.index_select(0, i),
            )
            yield Case(
                "scatter_rows_",
                shape,
                lambda b=buffer, r=rows, i=index: scatter_rows_(b, r, i),
                moved,
                0,
                lambda b=buffer, r=rows, i=index: b.index_copy_(0, i, r),
            )
