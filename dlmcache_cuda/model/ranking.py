"""Drawing tokens from filtered distributions, and how sure a prediction is."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dlmcache_cuda import ops
from dlmcache_cuda.model.head import Head

# Name -> ``score`` of ops.sample_rows.
RANKINGS = {"confidence": 0, "margin": 1, "entropy": 2}
# Logits at a time: top-p needs those of the whole vocabulary, but only of a few rows. 64 MiB fp32.
TILE_LOGITS = 1 << 24


def sample_tiles(
    normed: Tensor,
    head: Head,
    score: int,
    suppress_ids: Tensor | None,
    temperature: float,
    top_p: float,
    top_k: int,
    row_index: Tensor | None,
    capacity: int,
    seeds: Tensor | None,
    steps: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``ops.sample_rows`` on the logits of ``normed [Q, W]``, tile by tile: three ``[Q]``.

    The fourth, ``[Q]`` fp32, is ``ln softmax(logits)[token]``: without temperature, filters or
    suppressed ids.
    """
    rows = max(1, TILE_LOGITS // len(head.weight))
    tiles = []
    for begin in range(0, max(1, normed.shape[0]), rows):
        part = slice(begin, begin + rows)
        logits = head.logits(normed[part])
        top, top_log_prob, _ = ops.sample_rows(logits)
        top_logit = _at(logits, top)
        if suppress_ids is not None:
            logits.index_fill_(1, suppress_ids, -torch.inf)  # by a number: can be captured
        sampled = ops.sample_rows(
            logits, temperature, top_p, top_k, score,
            None if row_index is None else row_index[part], capacity, seeds, steps,
        )  # fmt: skip
        log_prob = top_log_prob + _at(logits, sampled[0]) - top_logit
        tiles.append((*sampled, torch.where(sampled[0] < 0, sampled[1], log_prob)))
    if len(tiles) == 1:
        return tiles[0]
    return tuple(torch.cat(parts) for parts in zip(*tiles, strict=True))


def _at(logits: Tensor, token: Tensor) -> Tensor:
    """``[R]`` fp32: the logit of one token per row of ``logits [R, V]``."""
    return logits.gather(1, token.clamp(min=0)[:, None])[:, 0].float()


def margin_score(first: Tensor, second: Tensor) -> Tensor:
    """``ln(p1 - p2)`` from ``ln p1`` and ``ln p2``, without loss at either end."""
    gap = second - first
    wide = torch.log1p(-gap.exp())
    close = torch.log(-torch.expm1(gap))
    return first + torch.where(gap < -math.log(2), wide, close)
