"""Attention of few packed rows over a long key/value cache."""

from __future__ import annotations

import torch
from torch import Tensor

from dlmcache_cuda import _extension  # noqa: F401  (registers the operators)


def attention_rows(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    cu_rows: Tensor,
    kv_lens: Tensor,
    capacity: int,
    scale: float,
    return_lse: bool = False,
) -> tuple[Tensor, Tensor]:
    """Bidirectional attention of the active rows of several slots over each slot's cached keys.

    Row ``r`` of slot ``s`` (``cu_rows[s] <= r < cu_rows[s + 1]``) attends to the first
    ``kv_lens[s]`` positions of its slot: ``out[r, h] = softmax(scale * q[r, h] . K^T) V`` with the
    keys and values of head ``h // (H // Hkv)``. There is no causal mask. Scores, softmax and sums
    are fp32; the result is rounded once. A row's result has the same bits whatever other rows and
    slots are in the call and however many threads run it.

    Args:
        q: ``[R, H, D]`` rotated queries, packed slot by slot; float32, float16 or bfloat16,
            contiguous. On CUDA ``D <= 256``.
        k_cache: ``[S * capacity, Hkv, D]`` keys after RoPE, dtype of ``q``, contiguous; position
            ``p`` of slot ``s`` is row ``s * capacity + p``. ``H`` is a multiple of ``Hkv``.
        v_cache: values, like ``k_cache``.
        cu_rows: ``[S + 1]`` int64, ascending from 0; rows from ``cu_rows[S]`` on are unused.
        kv_lens: ``[S]`` int64 keys of each slot, 0 to ``capacity``.
        capacity: positions of a slot.
        scale: factor of the scores, usually ``D ** -0.5``.
        return_lse: also return the log-sum-exp of the scaled scores.

    Returns:
        ``out [R, H, D]`` in the dtype of ``q``, zeros for unused rows and for rows of a slot
        without keys, and ``lse [R, H]`` fp32, natural logarithm, -inf for rows without keys and 0
        for unused rows (``[0]`` unless ``return_lse``).

    Raises:
        RuntimeError: a shape, dtype or device is not as above, or (on a CPU) an entry of
            ``cu_rows`` or ``kv_lens`` is out of range; on CUDA those are not checked.
    """
    return torch.ops.dlmcache.attention_rows(
        q, k_cache, v_cache, cu_rows, kv_lens, capacity, scale, return_lse
    )


@torch.library.register_fake("dlmcache::attention_rows")
def _(q, k_cache, v_cache, cu_rows, kv_lens, capacity, scale, return_lse=False):
    lse_shape = q.shape[:2] if return_lse else (0,)
    return torch.empty_like(q), q.new_empty(lse_shape, dtype=torch.float32)
