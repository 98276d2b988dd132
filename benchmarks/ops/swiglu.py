"""Cases of swiglu."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.case import Case
from dlmcache_cuda import reference
from dlmcache_cuda.ops import swiglu

#: Name, width of the feed-forward layer, dtype.
MODELS = (
    ("llada-8b", 12288, torch.bfloat16),
    ("llada-8b", 12288, torch.float32),
    ("bundled", 256, torch.float32),
)


def cases(device: str) -> Iterator[Case]:
    for name, width, dtype in MODELS:
        for num_rows in (32, 1024):
            gate_up = torch.randn(num_rows, 2 * width, device=device).to(dtype)
            yield Case(
                "swiglu",
                f"{name} {num_rows} x {width} {str(dtype)[6:]}",
                lambda x=gate_up: swiglu(x),
                3 * num_rows * width * gate_up.element_size(),
                4 * num_rows * width,
                lambda x=gate_up: reference.swiglu(x),
            )
