"""Cases of rms_norm and add_rms_norm."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.case import Case
from dlmcache_cuda import reference
from dlmcache_cuda.ops import add_rms_norm, rms_norm

#: Name, rows of the input, width, dtype.
MODELS = (
    ("llada-8b", 2048, 4096, torch.bfloat16),
    ("llada-8b", 2048, 4096, torch.float32),
    ("bundled", 2048, 96, torch.float32),
)


def cases(device: str) -> Iterator[Case]:
    for name, num_source, width, dtype in MODELS:
        x = torch.randn(num_source, width, device=device).to(dtype)
        weight = torch.randn(width, device=device).to(dtype)
        for num_rows in (32, 1024):
            index = torch.randperm(num_source, device=device)[:num_rows].sort().values
            yield Case(
                "rms_norm",
                f"{name} {num_rows} gathered x {width} {str(dtype)[6:]}",
                lambda a=(x, weight, 1e-5, index): rms_norm(*a),
                (2 * num_rows + 1) * width * x.element_size() + 8 * num_rows,
                4 * num_rows * width,
                lambda a=(x, weight, 1e-5, index): reference.rms_norm(*a),
            )
        for num_rows in (32, 1024):
            y = torch.randn(num_rows, width, device=device).to(dtype)
            yield Case(
                "add_rms_norm",
                f"{name} {num_rows} x {width} {str(dtype)[6:]}",
                lambda a=(x[:num_rows], y, weight, 1e-5): add_rms_norm(*a),
                (4 * num_rows + 1) * width * x.element_size(),
                5 * num_rows * width,
                lambda a=(x[:num_rows], y, weight, 1e-5): reference.add_rms_norm(*a),
            )
