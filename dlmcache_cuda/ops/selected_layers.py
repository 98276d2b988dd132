"""Layers that compute the most drifted of their rows, by one call."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dlmcache_cuda import _extension  # noqa: F401  (registers the operators)


def select_layers_(
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
    delta: Tensor,
    reference: Tensor,
    numbers: Tensor,
    sizes: Sequence[int],
    forced: Tensor | None,
    proxy_rank: int,
    signal: int,
    kv_rows: int,
    update_all: bool,
    reuse_output: bool,
) -> Tensor:
    """Carries packed rows through all blocks of a LLaDA, of which each layer computes those whose
    signal drifted most; the others keep a cached state (SPA-Cache, arXiv 2602.02544, algorithm 1;
    dLLM-Cache, arXiv 2506.06295, section 3.3). On CPUs only.

    In a layer that selects: the signal of all rows is compared with their reference
    (:func:`~dlmcache_cuda.ops.cosine_drift_`), :func:`~dlmcache_cuda.ops.select_rows` chooses, the
    chosen rows go through attention and feed-forward, and
    :func:`~dlmcache_cuda.ops.delta_update_` carries all rows over the layer. Other layers compute
    all rows, as in :func:`~dlmcache_cuda.ops.forward_layers_`. Bit for bit what these calls give
    one by one.

    Args:
        h: ``[R, W]`` embeddings of the rows, float32, float16 or bfloat16.
        weights, biases: as in ``forward_layers_``, but with ``proxy_rank`` more rows below the
            query, key and value projections: those of the proxy. Packed ones are divided at least
            where a product begins: at the proxy, behind the queries (``kv_rows`` 0), before the
            values (``signal`` 2).
        cos_sin, row_index, cu_rows, kv_lens, num_heads, eps, k_cache, v_cache: as in
            ``forward_layers_``; the rows of each slot ascend.
        delta: ``[layers - first, S * capacity, W]`` in the dtype of ``h``, contiguous: what each
            layer from the ``first`` on that may select added to a row, or what came out of it;
            modified.
        reference: ``[layers - first, S * capacity, proxy_rank]``, contiguous: proxies that rows are
            compared with; modified. Not read with another signal.
        numbers: ``[layers, S]`` int64: rows that each slot computes, at most all it carries.
        sizes: by layer, rows that all slots compute at most; -1: the layer computes all of its
            rows.
        forced: ``[S * capacity]`` bool: rows that are chosen before all others. None: none.
        proxy_rank: directions of the proxy, 0 without one.
        signal: 0: nothing, 1: the proxy, 2: the values, whose reference is ``v_cache``.
        kv_rows: which rows renew their keys and values: 0: all that are carried, 1: the chosen
            ones, 2: keys of the chosen ones, values of all.
        update_all: the reference of all rows is renewed, not only that of the chosen ones.
        reuse_output: rows that are not chosen keep what came out of the layer, instead of what it
            added.

    Returns:
        ``[R, W]`` residual stream behind the last layer.

    Raises:
        RuntimeError: a shape, dtype, stride or index is not as above.
    """
    return torch.ops.dlmcache.select_layers_(
        h, weights, biases, cos_sin, row_index, cu_rows, kv_lens, num_heads, eps, k_cache, v_cache,
        delta, reference, numbers, sizes, forced, proxy_rank, signal, kv_rows, update_all,
        reuse_output,
    )  # fmt: skip


@torch.library.register_fake("dlmcache::select_layers_")
def _(h: Tensor, *arguments: object) -> Tensor:
    return h.new_empty(h.shape)
