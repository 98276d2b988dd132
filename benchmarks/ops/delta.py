"""Cases of delta_update_: a quarter of the carried rows computed, the next norm included."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.case import Case
from dlmcache_cuda import reference
from dlmcache_cuda.ops import delta_update_

#: Name, rows kept, width, dtype.
MODELS = (
    ("llada-8b", 2048, 4096, torch.bfloat16),
    ("llada-8b", 2048, 4096, torch.float32),
    ("bundled", 2048, 96, torch.float32),
)


def cases(device: str) -> Iterator[Case]:
    for name, num_kept, width, dtype in MODELS:

        def randn(*shape: int, dtype=dtype) -> torch.Tensor:
            return torch.randn(*shape, device=device).to(dtype)

        delta, weight = randn(num_kept, width), randn(width)
        for num_rows in (32, 1024):
            index = torch.randperm(num_kept, device=device)[:num_rows].sort().values
            places = torch.arange(0, num_rows, 4, device=device)
            num_computed = places.shape[0]
            h, attn_out = randn(num_rows, width), randn(num_computed, width)
            arguments = (delta, h, index, attn_out, randn(num_computed, width), places, weight)
            # h, delta (read or written) and two results; what was computed; the weight.
            moved = 4 * num_rows + 2 * num_computed + 1
            yield Case(
                "delta_update_",
                f"{name} {num_computed} of {num_rows} rows x {width} {str(dtype)[6:]}",
                lambda a=arguments: delta_update_(*a),
                moved * width * delta.element_size() + 8 * (num_rows + num_computed),
                5 * num_rows * width + num_computed * width,
                lambda a=arguments: reference.delta_update_(*a),
            )
