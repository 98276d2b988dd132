"""How much attention every cached key receives: as a sum over rows, and carried through layers."""

from __future__ import annotations

import torch
from torch import Tensor

from dlmcache_cuda import _extension  # noqa: F401  (registers the operators)


def attention_mass(
    q: Tensor,
    k_cache: Tensor,
    cu_rows: Tensor,
    kv_lens: Tensor,
    capacity: int,
    scale: float,
    lse: Tensor | None = None,
    row_weight: Tensor | None = None,
) -> Tensor:
    """Attention weights of each slot's rows, summed over rows and heads, for every cached key.

    ``mass[s * capacity + j] = sum over rows r of slot s, heads h of
    row_weight[r] * exp(scale * q[r, h] . k[j, h // (H // Hkv)] - lse[r, h])``. The weights
    themselves are never stored. A slot's masses have the same bits whatever other slots are in
    the call and however many threads run it. Elastic-Cache picks its tracked positions by it.

    Args:
        q: ``[R, H, D]`` rotated queries, packed slot by slot; float32, float16 or bfloat16,
            contiguous. On CUDA ``D <= 256``.
        k_cache: ``[S * capacity, Hkv, D]`` keys after RoPE, dtype of ``q``, contiguous. ``H`` is
            a multiple of ``Hkv``.
        cu_rows: ``[S + 1]`` int64, ascending from 0; rows from ``cu_rows[S]`` on are unused.
        kv_lens: ``[S]`` int64 keys of each slot, 0 to ``capacity``.
        capacity: positions of a slot.
        scale: factor of the scores, usually ``D ** -0.5``.
        lse: ``[R, H]`` fp32 log-sum-exp of the scaled scores, as
            :func:`~dlmcache_cuda.ops.attention_rows` returns it; ``None`` computes it first, at
            the cost of another pass over the keys.
        row_weight: ``[R]`` fp32 factor of each row; ``None``: ones.

    Returns:
        ``[S * capacity]`` fp32, 0 behind a slot's keys and where a slot has no rows.

    Raises:
        RuntimeError: a shape, dtype or device is not as above, or (on a CPU) an entry of
            ``cu_rows`` or ``kv_lens`` is out of range; on CUDA those are not checked.
    """
    return torch.ops.dlmcache.attention_mass(
        q, k_cache, cu_rows, kv_lens, capacity, scale, lse, row_weight
    )


@torch.library.register_fake("dlmcache::attention_mass")
def _(q, k_cache, cu_rows, kv_lens, capacity, scale, lse=None, row_weight=None):
    return q.new_empty((kv_lens.shape[0] * capacity,), dtype=torch.float32)


def rollout_step(
    z: Tensor,
    q: Tensor,
    k_cache: Tensor,
    row_index: Tensor,
    cu_rows: Tensor,
    kv_lens: Tensor,
    capacity: int,
    scale: float,
    lse: Tensor | None = None,
) -> Tensor:
    """Carries an importance vector through one layer of attention rollout.

    With ``p`` the attention weights of the listed rows, ``z'_j = z_j / 2`` at a listed row and
    ``z_j`` elsewhere, plus ``sum over rows r of z[row_index[r]] / 2 * mean over heads of
    p[r, h, j]``: half of a computed row's importance stays, half follows its attention. This is
    the row-vector form of ``C <- rownorm(E + I) C`` (d2Cache), which never builds a matrix: start
    with ones and call it for the layers from the last to the first.

    Args:
        z: ``[S * capacity]`` fp32 importance of every position, contiguous.
        q: ``[R, H, D]`` rotated queries of the listed rows, as in :func:`attention_mass`.
        k_cache: ``[S * capacity, Hkv, D]`` keys after RoPE.
        row_index: ``[R]`` int64 rows of the queries, ``slot * capacity + position``, ascending in
            each slot, -1 behind.
        cu_rows: ``[S + 1]`` int64, ascending from 0; rows from ``cu_rows[S]`` on are unused.
        kv_lens: ``[S]`` int64 keys of each slot, 0 to ``capacity``.
        capacity: positions of a slot.
        scale: factor of the scores, usually ``D ** -0.5``.
        lse: ``[R, H]`` fp32 log-sum-exp of the scaled scores; ``None`` computes it first.

    Returns:
        ``[S * capacity]`` fp32. The sum over a slot stays what it was, to rounding.

    Raises:
        RuntimeError: a shape, dtype or device is not as above, or (on a CPU) an entry of
            ``row_index``, ``cu_rows`` or ``kv_lens`` is out of range.
    """
    return torch.ops.dlmcache.rollout_step(
        z, q, k_cache, row_index, cu_rows, kv_lens, capacity, scale, lse
    )


@torch.library.register_fake("dlmcache::rollout_step")
def _(z, q, k_cache, row_index, cu_rows, kv_lens, capacity, scale, lse=None):
    return torch.empty_like(z)
