"""Attention of the rows of one forward: packed rows over the cache, or dense by slot."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from dlmcache_cuda import ops
from dlmcache_cuda.cache import RowList

#: From this many rows on a slot that computes all of its keys goes to torch's dense attention.
#: Measured on a CPU (4 to 32 heads of 24 to 128, fp32 and bf16): packed rows take 0.5 to 0.9 of its
#: time up to 512 rows and are even with it at 1024.
DENSE_FROM = {"cpu": 1024, "cuda": 128}


@dataclass(frozen=True, slots=True)
class KeyLengths:
    """How many leading positions of each slot are attended to."""

    device: Tensor
    """``[S]`` int64 on the device."""
    host: tuple[int, ...] | None = None
    """The same numbers on the host where they are known without reading the device."""


def attention(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, rows: RowList, key_lengths: KeyLengths
) -> Tensor:
    """What :func:`attention_with_lse` gives, without the log-sum-exp."""
    return _attention(q, k_cache, v_cache, rows, key_lengths, False)[0]


def attention_with_lse(
    q: Tensor, k_cache: Tensor, v_cache: Tensor, rows: RowList, key_lengths: KeyLengths
) -> tuple[Tensor, Tensor | None]:
    """Every row attends to the first ``key_lengths`` positions of its slot, in both directions.

    The choice between the two ways is made slot by slot from the slot's own numbers, so that a
    sequence is computed the same way whatever else is in the batch.

    Args:
        q: ``[R, H, D]`` rotated queries.
        k_cache, v_cache: ``[M, Hkv, D]`` of one layer.
        rows: where the queries stand.
        key_lengths: keys of each slot.

    Returns:
        ``[R, H, D]``, zeros for unused rows; and ``[R, H]`` fp32, the log-sum-exp of the scores of
        every row and head, None where dense attention, which does not tell it, took part.
    """
    return _attention(q, k_cache, v_cache, rows, key_lengths, True)


def _attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    rows: RowList,
    key_lengths: KeyLengths,
    with_lse: bool,
) -> tuple[Tensor, Tensor | None]:
    scale = q.shape[-1] ** -0.5
    dense = _dense_slots(rows, key_lengths)
    if not any(dense):
        out, lse = ops.attention_rows(
            q, k_cache, v_cache, rows.cu_rows, key_lengths.device, rows.capacity, scale, with_lse
        )
        return out, lse if with_lse else None
    if None in rows.counts:
        return _beside_unknown(q, k_cache, v_cache, rows, key_lengths, dense), None
    out = q.new_zeros(q.shape)
    starts = (0, *accumulate(rows.counts))
    for is_dense, group in groupby(range(rows.num_slots), key=dense.__getitem__):
        slots = list(group)
        if is_dense:
            for slot in slots:
                part = slice(starts[slot], starts[slot + 1])
                keys = slice(slot * rows.capacity, slot * rows.capacity + rows.counts[slot])
                out[part] = _dense(q[part], k_cache[keys], v_cache[keys], scale)
        elif starts[slots[0]] < starts[slots[-1] + 1]:
            first, behind = slots[0], slots[-1] + 1
            part = slice(starts[first], starts[behind])
            keys = slice(first * rows.capacity, behind * rows.capacity)
            out[part] = ops.attention_rows(
                q[part],
                k_cache[keys],
                v_cache[keys],
                rows.cu_rows[first : behind + 1] - starts[first],
                key_lengths.device[first:behind],
                rows.capacity,
                scale,
            )[0]
    return out, None


def _beside_unknown(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    rows: RowList,
    key_lengths: KeyLengths,
    dense: list[bool],
) -> Tensor:
    """:func:`attention` where other slots than the dense ones have unknown numbers of rows, so that
    only the device knows where a slot's rows begin: they are gathered instead of sliced."""
    scale, keys = q.shape[-1] ** -0.5, key_lengths.device.clone()
    slots = [slot for slot, is_dense in enumerate(dense) if is_dense]
    for slot in slots:
        keys[slot].fill_(0)  # a slot without keys costs nothing there
    out = ops.attention_rows(q, k_cache, v_cache, rows.cu_rows, keys, rows.capacity, scale)[0]
    for slot in slots:
        count, first = rows.counts[slot], slot * rows.capacity
        places = rows.cu_rows[slot] + torch.arange(count, device=q.device)
        part = slice(first, first + count)
        out.index_copy_(0, places, _dense(q[places], k_cache[part], v_cache[part], scale))
    return out


def takes_dense(rows: RowList, key_lengths: KeyLengths) -> bool:
    """Whether :func:`attention` leaves any of the rows to torch's dense attention."""
    return any(_dense_slots(rows, key_lengths))


def _dense_slots(rows: RowList, key_lengths: KeyLengths) -> list[bool]:
    if rows.counts is None or key_lengths.host is None:
        return [False] * rows.num_slots
    least = DENSE_FROM[rows.row_index.device.type]
    # As many distinct rows as keys: they are the keys, in order.
    return [
        count == length and count >= least
        for count, length in zip(rows.counts, key_lengths.host, strict=True)
    ]


def _dense(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """``[n, H, D]`` over ``[n, Hkv, D]``, by the library."""
    batched = [tensor.transpose(0, 1)[None] for tensor in (q, k, v)]
    grouped = q.shape[1] != k.shape[1]
    out = F.scaled_dot_product_attention(*batched, scale=scale, enable_gqa=grouped)
    return out[0].transpose(0, 1)
