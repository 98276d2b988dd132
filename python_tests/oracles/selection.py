"""Which rows moved most: drift and the choice by it, as SPA-Cache and dLLM-Cache make it."""

from __future__ import annotations

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


def most_moved(a: torch.Tensor, b: torch.Tensor, count: int) -> tuple[list[int], float]:
    """The ``count`` rows of largest drift from ``b`` to ``a``, ascending; ties: the first.

    Also how far, in distance, the last chosen row is from the first left one. Rows that did not
    move at all are tied exactly; no rounding decides among them.
    """
    moved = distance(a, b).tolist()
    order = sorted(range(len(moved)), key=lambda row: (-moved[row], row))
    chosen, left = order[:count], order[count:]
    gap = math.inf
    if chosen and left and moved[chosen[-1]] > 0:
        gap = moved[chosen[-1]] - moved[left[0]]
    return sorted(chosen), gap
