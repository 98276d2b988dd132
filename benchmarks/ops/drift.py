"""Cases of cosine_drift_: a proxy of a few columns, and all value heads of a cache."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.case import Case
from dlmcache_cuda import reference
from dlmcache_cuda.ops import cosine_drift_

#: Name, rows kept, width, dtype.
MODELS = (
    ("llada-8b proxy", 4096, 128, torch.bfloat16),
    ("llada-8b values", 4096, 4096, torch.bfloat16),
    ("bundled values", 2048, 96, torch.float32),
)


def cases(device: str) -> Iterator[Case]:
    for name, num_kept, width, dtype in MODELS:
        kept = torch.randn(num_kept, width, device=device).to(dtype)
        for num_rows in (32, 1024):
            index = torch.randperm(num_kept, device=device)[:num_rows].sort().values
            # A column slice of a wider product.
            signal = torch.randn(num_rows, width + 64, device=device).to(dtype)[:, :width]
            yield Case(
                "cosine_drift_",
                f"{name}, {num_rows} rows x {width} {str(dtype)[6:]}",
                lambda a=(signal, kept, index): cosine_drift_(*a),
                3 * num_rows * width * kept.element_size() + 12 * num_rows,
                8 * num_rows * width,
                lambda a=(signal, kept, index): reference.cosine_drift_(*a),
            )
