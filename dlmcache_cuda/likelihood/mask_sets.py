"""Which tokens of an answer are masked when its likelihood is estimated."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class MaskSets:
    """Sets of masked positions of an answer of ``L`` tokens, and what each counts.

    The log-likelihood is the sum over sets of weight times the log-probabilities of the masked
    tokens of that set.
    """

    masked: Tensor
    """``[M, L]`` bool, no two rows alike, none empty."""
    weight: Tensor
    """``[M]`` fp64."""


def all_mask_sets(length: int) -> MaskSets:
    """Every set, ``2^L - 1`` of them: the expectation itself.

    A set of l positions has the weight ``1/L`` (its number of masks) times ``1/C(L, l)`` (it among
    those of that number) times ``L/l``.
    """
    numbers = torch.arange(1, 2**length)
    masked = (numbers[:, None] >> torch.arange(length)) & 1 == 1
    counts = masked.sum(1).tolist()
    weight = [1 / (math.comb(length, count) * count) for count in counts]
    return MaskSets(masked, torch.tensor(weight, dtype=torch.float64))


def draw_mask_sets(
    length: int, mc_num: int, mc_batch_size: int, generator: torch.Generator
) -> MaskSets:
    """``mc_num`` draws: a number of masks l, evenly from 1 to L, then l positions; weight ``L/l``
    over the number of draws. Sets that were drawn more than once are joined.

    As in LLaDA's evaluation the numbers of masks of ``mc_batch_size`` draws are spread evenly over
    1 to L from a random start, so that few draws see few and many masks alike.

    Args:
        mc_batch_size: divides ``mc_num``.
        generator: on the CPU.
    """
    masked = torch.zeros((mc_num, length), dtype=torch.bool)
    counts = torch.empty(mc_num, dtype=torch.int64)
    offsets = torch.arange(mc_batch_size, dtype=torch.float64) * (length / mc_batch_size)
    for begin in range(0, mc_num, mc_batch_size):
        start = torch.randint(1, length + 1, (), generator=generator)
        spread = torch.round(start + offsets).long()
        counts[begin : begin + mc_batch_size] = (spread - 1) % length + 1
    for row, count in zip(masked, counts.tolist(), strict=True):
        row[torch.randperm(length, generator=generator)[:count]] = True
    sets, times = masked.unique(dim=0, return_counts=True)
    weight = times.double() * length / (sets.sum(1) * mc_num)
    return MaskSets(sets, weight)
