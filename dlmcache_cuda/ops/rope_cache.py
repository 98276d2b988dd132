"""Rotary position embedding of freshly projected rows, and their way into the cache."""

from __future__ import annotations

import torch
from torch import Tensor

from dlmcache_cuda import _extension  # noqa: F401  (registers the operators)


def rope_scatter_kv_(
    qkv: Tensor,
    cos_sin: Tensor,
    row_index: Tensor,
    capacity: int,
    num_heads: int,
    k_cache: Tensor,
    v_cache: Tensor,
) -> Tensor:
    """Rotates queries and keys by their positions and writes keys and values to the cache.

    Entry r of the list is the row ``i = row_index[r]`` of the cache, at position
    ``p = i % capacity`` of its slot. Element j of the lower half of a head turns with element
    ``j + D/2`` (the half-split layout of GPT-NeoX, Llama and LLaDA)::

        out[j]       = x[j] * cos[p, j] - x[j + D/2] * sin[p, j]
        out[j + D/2] = x[j + D/2] * cos[p, j] + x[j] * sin[p, j]

    in fp32, rounded once. Rotated keys go to ``k_cache[i]``, values as they are to ``v_cache[i]``.

    Args:
        qkv: ``[R, (H + 2 Hkv) * D]``, float32, float16 or bfloat16: the H query heads of a row, its
            Hkv key heads, its Hkv value heads. Rows may lie apart (any row stride).
        cos_sin: ``[capacity, D]`` float32, contiguous: per position D/2 cosines, then D/2 sines.
        row_index: ``[R]`` int64 rows of the cache, contiguous, without repetition; -1 marks an
            unused entry: its queries are zeros and it writes nothing.
        capacity: positions per slot; the cache has a multiple of it as rows.
        num_heads: H; may be 0 when only keys and values are wanted.
        k_cache: ``[slots * capacity, Hkv, D]``, contiguous, dtype of ``qkv``, D even; modified.
            Hkv may be 0 when only queries are to be rotated.
        v_cache: like ``k_cache``; modified.

    Returns:
        The rotated queries ``[R, H, D]``, contiguous, dtype of ``qkv``.

    Raises:
        RuntimeError: a shape, dtype, device, stride or (on a CPU) an index is not as above.
    """
    return torch.ops.dlmcache.rope_scatter_kv_(
        qkv, cos_sin, row_index, capacity, num_heads, k_cache, v_cache
    )


@torch.library.register_fake("dlmcache::rope_scatter_kv_")
def _(
    qkv: Tensor,
    cos_sin: Tensor,
    row_index: Tensor,
    capacity: int,
    num_heads: int,
    k_cache: Tensor,
    v_cache: Tensor,
) -> Tensor:
    return qkv.new_empty((qkv.shape[0], num_heads, k_cache.shape[2]))
