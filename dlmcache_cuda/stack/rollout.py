"""Attention rollout as one row vector (d2Cache)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dlmcache_cuda import ops
from dlmcache_cuda.cache import KVCache, RowList
from dlmcache_cuda.model.attention import KeyLengths


def rollout_importance(
    queries: Sequence[Tensor], cache: KVCache, rows: RowList, key_lengths: KeyLengths
) -> Tensor:
    """Column sums of the attention rollout of a step: how much of all rows flows to each.

    With ``R_l`` the head-mean attention of layer l plus identity, halved, and unit rows where
    nothing was computed, the rollout is ``R_L ... R_1``; its column sums are the row vector of ones
    multiplied from the last layer down.

    Args:
        queries: rotated queries ``[R, H, D]`` of the computed rows, by layer.
        cache: keys as the step left them.
        rows: the computed rows.
        key_lengths: keys of each slot.

    Returns:
        ``[M]`` fp32.
    """
    flow = torch.ones(cache.num_slots * cache.capacity, device=rows.row_index.device)
    for q, k_cache in zip(reversed(queries), reversed(cache.k), strict=True):
        flow = ops.rollout_step(
            flow, q, k_cache, rows.row_index, rows.cu_rows, key_lengths.device, rows.capacity,
            q.shape[-1] ** -0.5,
        )  # fmt: skip
    return flow
