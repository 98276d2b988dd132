"""Layers that follow their most-attended rows, by one call."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dlmcache_cuda import _extension  # noqa: F401  (registers the operators)


def track_layers_(
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
    first_layer: int,
    inputs: Tensor,
    found: Tensor,
    tracked_index: Tensor,
    cu_tracked: Tensor,
    tested: Tensor,
    gamma: float,
    similarity: int,
    window_index: Tensor,
    cu_window: Tensor,
    open_index: Tensor,
    cu_open: Tensor,
    limits: Tensor,
    read_places: Tensor | None = None,
    cu_read: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """:func:`~dlmcache_cuda.ops.forward_layers_` from ``first_layer`` on, which also tests whether
    the attention of tracked rows drifts and finds the rows to be tracked next (Elastic-Cache, arXiv
    2510.14973, algorithm 1). It ends behind the last layer, or behind the first in which a slot's
    similarity is below ``gamma``. On CPUs only.

    In every layer, besides what ``forward_layers_`` does: queries of the tracked rows are computed
    anew from the cached ``inputs``, which then are renewed at the rows; behind the attention
    :func:`~dlmcache_cuda.ops.tracked_similarity` compares them, and
    :func:`~dlmcache_cuda.ops.attention_mass` of the window's rows with
    :func:`~dlmcache_cuda.ops.select_rows` among the open ones finds the most attended. Bit for bit
    what these calls give one by one.

    Args:
        h: ``[R, W]``, what goes into ``first_layer``.
        weights, biases, cos_sin, row_index, cu_rows, kv_lens, num_heads, eps, k_cache, v_cache: as
            in ``forward_layers_``, of all layers; the rows of each slot ascend. Packed projections
            are divided behind those of the queries at least.
        first_layer: the layer to begin with.
        inputs: ``[layers, S * capacity, W]`` in the dtype of ``h``, contiguous: what last went into
            each layer; modified.
        found: ``[layers, S * capacity]`` bool: True is written at the most attended rows.
        tracked_index, cu_tracked: ``[T]`` and ``[S + 1]`` int64: tracked rows of the slots that are
            tested, ascending in each; all of them are among the rows.
        tested: ``[S]`` bool.
        gamma: a test fails below it.
        similarity: 0 (heads) or 1 (rows), as in ``tracked_similarity``.
        window_index, cu_window: ``[Q]`` and ``[S + 1]`` int64: rows whose attention decides; -1 is
            unused. With Q = 0 nothing is found.
        open_index, cu_open: ``[O]`` and ``[S + 1]`` int64: rows that may be found.
        limits: ``[S]`` int64: how many are found in each slot and layer.
        read_places, cu_read: as in ``forward_layers_``; they matter where the last layer runs.

    Returns:
        ``[R, W]``, what comes out of the last layer that ran, and ``[layers, S]`` float32: what was
        measured, infinity for slots that were not tested and layers that did not run.

    Raises:
        RuntimeError: a shape, dtype, stride or index is not as above.
    """
    return torch.ops.dlmcache.track_layers_(
        h, weights, biases, cos_sin, row_index, cu_rows, kv_lens, num_heads, eps, k_cache, v_cache,
        first_layer, inputs, found, tracked_index, cu_tracked, tested, gamma, similarity,
        window_index, cu_window, open_index, cu_open, limits, read_places, cu_read,
    )  # fmt: skip


@torch.library.register_fake("dlmcache::track_layers_")
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
    first_layer: int,
    inputs: Tensor,
    *lists: Tensor | None,
) -> tuple[Tensor, Tensor]:
    similarities = h.new_empty((len(k_cache), len(kv_lens)), dtype=torch.float32)
    return h.new_empty(h.shape), similarities
