"""How much the attention of tracked rows changed when keys of the cache were replaced."""

from __future__ import annotations

import torch
from torch import Tensor

from dlmcache_cuda import _extension  # noqa: F401  (registers the operators)


def tracked_similarity(
    q_old: Tensor,
    q_new: Tensor,
    k_cache: Tensor,
    k_old: Tensor,
    row_index: Tensor,
    cu_rows: Tensor,
    cu_tracked: Tensor,
    kv_lens: Tensor,
    capacity: int,
    scale: float,
    similarity: int,
) -> Tensor:
    """Cosine similarity of the tracked rows' attention before and after a step, per slot.

    ``p_old`` is the attention of ``q_old`` over the keys as they were, the cache with ``k_old`` at
    ``row_index``; ``p_new`` that of ``q_new`` over the cache. The cache is not copied and no
    weight is stored. This is Elastic-Cache's drift test.

    Args:
        q_old: ``[T, H, D]`` rotated queries of the tracked rows before the step, packed slot by
            slot; float32, float16 or bfloat16, contiguous.
        q_new: the same rows' queries now, like ``q_old``.
        k_cache: ``[S * capacity, Hkv, D]`` keys after RoPE, the new ones written already. ``H``
            is a multiple of ``Hkv``.
        k_old: ``[R, Hkv, D]`` the keys that stood at ``row_index`` before.
        row_index: ``[R]`` int64 rows, ``slot * capacity + position``, ascending in each slot, -1
            behind.
        cu_rows: ``[S + 1]`` int64 part of each slot in ``row_index``, ascending from 0.
        cu_tracked: ``[S + 1]`` int64 part of each slot in ``q_old`` and ``q_new``.
        kv_lens: ``[S]`` int64 keys of each slot, 0 to ``capacity``.
        capacity: positions of a slot.
        scale: factor of the scores, usually ``D ** -0.5``.
        similarity: 0: for each tracked row and key the cosine of the two vectors over heads,
            ``sum_h p_old p_new / (max(|p_old|, 1e-8) max(|p_new|, 1e-8))``, averaged over rows and
            keys. 1: for each tracked row and head the cosine over keys, averaged over both.

    Returns:
        ``[S]`` fp32; 1 for slots without tracked rows or without keys.

    Raises:
        RuntimeError: a shape, dtype or device is not as above, or (on a CPU) an entry of
            ``row_index``, ``cu_rows``, ``cu_tracked`` or ``kv_lens`` is out of range.
    """
    return torch.ops.dlmcache.tracked_similarity(
        q_old,
        q_new,
        k_cache,
        k_old,
        row_index,
        cu_rows,
        cu_tracked,
        kv_lens,
        capacity,
        scale,
        similarity,
    )


@torch.library.register_fake("dlmcache::tracked_similarity")
def _(
    q_old,
    q_new,
    k_cache,
    k_old,
    row_index,
    cu_rows,
    cu_tracked,
    kv_lens,
    capacity,
    scale,
    similarity,
):
    return q_old.new_empty((kv_lens.shape[0],), dtype=torch.float32)
