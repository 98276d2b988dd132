"""Cases of forward_layers_."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.case import Case
from dlmcache_cuda import reference
from dlmcache_cuda.ops import forward_layers_

#: The bundled model: layers, width, inner width, heads, their size; positions of a canvas.
LAYERS, WIDTH, INNER, HEADS, HEAD_DIM, CAPACITY = 6, 96, 256, 4, 24, 160


def cases(device: str) -> Iterator[Case]:
    qkv = 3 * HEADS * HEAD_DIM
    shapes = ((WIDTH,), (qkv, WIDTH), (WIDTH, HEADS * HEAD_DIM), (WIDTH,), (2 * INNER, WIDTH),
              (WIDTH, INNER))  # fmt: skip
    weights = [torch.randn(shape, device=device) / 8 for _ in range(LAYERS) for shape in shapes]
    numbers = sum(weight.numel() for weight in weights)
    matrices = sum(weight.numel() for weight in weights if weight.dim() == 2)
    for num_rows in (32, CAPACITY):
        caches = torch.randn(2, LAYERS, CAPACITY, HEADS, HEAD_DIM, device=device)
        arguments = (
            torch.randn(num_rows, WIDTH, device=device),
            weights,
            [],
            torch.randn(CAPACITY, HEAD_DIM, device=device),
            torch.arange(num_rows, device=device),
            torch.tensor([0, num_rows], device=device),
            torch.tensor([CAPACITY], device=device),
            HEADS,
            1e-5,
            *caches,
        )
        scores = LAYERS * num_rows * CAPACITY * HEADS * HEAD_DIM
        yield Case(
            "forward_layers_",
            f"bundled {num_rows} of {CAPACITY} x {WIDTH} float32",
            lambda a=arguments: forward_layers_(*a),
            4 * (numbers + caches.numel() + 2 * num_rows * WIDTH),
            2 * num_rows * matrices + 4 * scores,
            lambda a=arguments: reference.forward_layers_(*a),
        )
