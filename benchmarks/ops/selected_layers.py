"""Cases of select_layers_."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from benchmarks.case import Case
from benchmarks.ops.layers import CAPACITY, LAYERS, WIDTH
from benchmarks.ops.layers import cases as layers_cases
from dlmcache_cuda import reference
from dlmcache_cuda.ops import select_layers_

#: SPA-Cache on the bundled model: directions of the proxy, rows generated, computed of them.
RANK, GENERATED, COMPUTED = 96, 96, 16


def cases(device: str) -> Iterator[Case]:
    if device != "cpu":
        return
    h, weights, biases, cos_sin, _, _, *rest = next(layers_cases(device)).run.__defaults__[0]
    weights = [
        torch.cat((weight, torch.randn(RANK, WIDTH) / 8)) if place % 6 == 1 else weight
        for place, weight in enumerate(weights)
    ]
    arguments = (
        torch.randn(GENERATED, WIDTH),
        weights,
        biases,
        cos_sin,
        torch.arange(CAPACITY - GENERATED, CAPACITY),
        torch.tensor([0, GENERATED]),
        *rest,
        torch.randn(LAYERS - 1, CAPACITY, WIDTH),
        torch.randn(LAYERS - 1, CAPACITY, RANK),
        torch.full((LAYERS, 1), COMPUTED),
        [-1] + [COMPUTED] * (LAYERS - 1),
        None,
        RANK,
        1,
        0,
        True,
        False,
    )
    numbers = sum(weight.numel() for weight in weights)
    matrices = [weight.numel() for weight in weights if weight.dim() == 2]
    carried = sum(WIDTH * (RANK + 2 * WIDTH) for _ in range(LAYERS - 1))
    rows = GENERATED + (LAYERS - 1) * COMPUTED
    yield Case(
        "select_layers_",
        f"bundled {COMPUTED} of {GENERATED} of {CAPACITY} x {WIDTH} float32",
        lambda: select_layers_(*arguments),
        4 * (numbers + LAYERS * GENERATED * (2 * WIDTH + RANK)),
        2 * (rows * sum(matrices) // LAYERS + GENERATED * carried) + 4 * rows * CAPACITY * WIDTH,
        lambda: reference.select_layers_(*arguments),
    )
