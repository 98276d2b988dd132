"""Which rows moved most: drift and the choice by it, as SPA-Cache and dLLM-Cache make it."""

from __future__ import annotations

import itertools
import math

import torch

# Equal vectors that were computed in different shapes differ in their last bits only.
EQUAL = 1e-9


def distance(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Distance ``[R]`` of the unit vectors along rows of ``a`` and ``b [R, r]``: sqrt(2 drift).

    drift is 1 - cosine: 1 where one vector is zero, 0 where both are.
    """
    norm_a, norm_b = a.norm(dim=-1), b.norm(dim=-1)
    unit_a, unit_b = (x / n.clamp_min(1e-300)[:, None] for x, n in ((a, norm_a), (b, norm_b)))
    result = (unit_a - unit_b).norm(dim=-1)
    result[(norm_a == 0) != (norm_b == 0)] = math.sqrt(2)
    result[result < EQUAL] = 0
    return result


def first_equal(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """For every row the first one with the same vectors in ``a`` and in ``b``."""
    equal = [torch.cdist(x, x, p=math.inf) < EQUAL for x in (a, b)]
    return (equal[0] & equal[1]).int().argmax(dim=1)


def most_moved(a: torch.Tensor, b: torch.Tensor, count: int) -> tuple[list[int], float]:
    """The ``count`` rows of largest drift from ``b`` to ``a``, ascending; ties: the first.

    Also how far, in distance, a chosen row is at least from one that was left. Rows that did not
    move at all, and rows of the same vectors (the same token in layer 0), are tied exactly: no
    rounding decides among them.
    """
    if len(a) == 0:
        return [], math.inf
    twin = first_equal(a, b).tolist()
    moved = distance(a, b)[twin].tolist()
    order = sorted(range(len(moved)), key=lambda row: (-moved[row], row))
    chosen, left = order[:count], order[count:]
    gaps = [
        moved[one] - moved[other]
        for one, other in itertools.product(chosen, left)
        if moved[one] > 0 and twin[one] != twin[other]
    ]
    return sorted(chosen), min(gaps, default=math.inf)
