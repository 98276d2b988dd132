"""All layers of a step by one call."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dlmcache_cuda import _extension  # noqa: F401  (registers the operators)


def forward_layers_(
    h: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    cos_sin: Tensor,
    row_index: Tensor,
    cu_rows: Tensor,
    kv_lens: Tensor,
    num_heads: int,
    eps: float,
    k_cache: Tensor,
    v_cache: Tensor,
    read_places: Tensor | None = None,
    cu_read: Tensor | None = None,
) -> Tensor:
    """Takes packed rows through all blocks of a LLaDA; their keys and values go into the cache.

    For every layer, in this order: RMSNorm (:func:`~dlmcache_cuda.ops.add_rms_norm`), the product
    for queries, keys and values, :func:`~dlmcache_cuda.ops.rope_scatter_kv_`,
    :func:`~dlmcache_cuda.ops.attention_rows` with scale ``D ** -0.5``, the output product, RMSNorm,
    the product for gate and up, :func:`~dlmcache_cuda.ops.swiglu`, the down product. Bit for bit
    what these calls give one by one; small models spend most of their time on starting them.

    Args:
        h: ``[R, W]`` embeddings of the rows, float32, float16 or bfloat16; any row stride.
        weights: six tensors for each layer, dtype of ``h``: attention norm ``[W]``, query, key and
            value projections ``[(H + 2 Hkv) D, W]``, output projection ``[W, H D]``, feed-forward
            norm ``[W]``, gate and up projections ``[2 F, W]``, down projection ``[W, F]``. In place
            of the projections there may be several tensors, as many in every layer, whose rows are
            theirs. On CPUs matrices may be packed by ``mkldnn::_reorder_linear_weight``.
        biases: of the query, key and value projections, ``[(H + 2 Hkv) D]`` for each layer, in as
            many tensors; empty where there are none.
        cos_sin: ``[capacity, D]`` float32, contiguous, as in ``rope_scatter_kv_``.
        row_index: ``[R]`` int64 rows of the cache, contiguous, without repetition; -1 marks an
            unused entry, which writes nothing.
        cu_rows: ``[S + 1]`` int64: slot s has the entries ``cu_rows[s]`` to ``cu_rows[s + 1] - 1``.
        kv_lens: ``[S]`` int64, keys of each slot.
        num_heads: H, a multiple of Hkv.
        eps: of the norms.
        k_cache, v_cache: ``[layers, S * capacity, Hkv, D]``, contiguous, dtype of ``h``; modified.
        read_places, cu_read: ``[P]`` int64, P <= R, places among the rows (-1: unused), and
            ``[S + 1]`` int64, which of them belong to which slot: the rows of which something is
            read behind the last layer. Of the others the last layer makes only keys and values.
            None: all rows are read.

    Returns:
        ``[R, W]``, the residual stream behind the last layer: what the final norm reads. In rows
        that are not read it is what went into the last layer.

    Raises:
        RuntimeError: a shape, dtype, device, stride or (on a CPU) an index is not as above.
    """
    return torch.ops.dlmcache.forward_layers_(
        h, weights, biases, cos_sin, row_index, cu_rows, kv_lens, num_heads, eps, k_cache, v_cache,
        read_places, cu_read,
    )  # fmt: skip


@torch.library.register_fake("dlmcache::forward_layers_")
def _(
    h: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    cos_sin: Tensor,
    row_index: Tensor,
    cu_rows: Tensor,
    kv_lens: Tensor,
    num_heads: int,
    eps: float,
    k_cache: Tensor,
    v_cache: Tensor,
    read_places: Tensor | None = None,
    cu_read: Tensor | None = None,
) -> Tensor:
    return h.new_empty(h.shape)
