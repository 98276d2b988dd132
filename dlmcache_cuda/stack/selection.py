"""Layers that compute the most drifted of the rows they carry (SPA-Cache, dLLM-Cache)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dlmcache_cuda import ops
from dlmcache_cuda.cache import KVCache, RowList
from dlmcache_cuda.model import Llada
from dlmcache_cuda.model.block import LladaBlock
from dlmcache_cuda.model.proxy import stack_proxies
from dlmcache_cuda.policies import SelectionSpec
from dlmcache_cuda.stack.step import LayerSelection

# As operators number them.
SIGNALS = (None, "proxy", "value")
KV_ROWS = ("carried", "selected", "values")


class Selection:
    """Reference signals and cached deltas of all layers, and how a layer uses them.

    Rows keep one cached vector per layer, ``a + f``: attention and feed-forward output are always
    renewed together. Storage only grows with the rows of the slots, ``[M, W]`` per layer.
    """

    def __init__(self, model: Llada, spec: SelectionSpec, num_rows: int, cache: KVCache) -> None:
        self.spec = spec
        self.layers = model.layers
        self.cache = cache
        self.eps = model.config.rms_norm_eps
        width, layers = model.config.d_model, model.config.n_layers
        first = spec.first_layer
        buffer = {"dtype": model.dtype, "device": model.device}
        self._delta = torch.zeros((layers - first, num_rows, width), **buffer)
        self._reference = torch.zeros(0, **buffer)
        self.delta: list[Tensor | None] = [None] * first + list(self._delta)
        self.proxy_rank = 0
        self.reference: list[Tensor | None] = []
        if spec.signal == "proxy":
            self.proxy_rank = stack_proxies(model, spec.proxy_rank)
            self._reference = torch.zeros((layers - first, num_rows, self.proxy_rank), **buffer)
            self.reference = [None] * first + list(self._reference)
        elif spec.signal == "value":
            # dLLM-Cache compares values with the cached values themselves.
            self.reference = [values.flatten(1) for values in cache.v]

    @property
    def nbytes(self) -> int:
        """Memory held beside the K/V cache, in bytes; proxies are part of the model's weights."""
        return self._delta.nbytes + self._reference.nbytes

    def whole(self) -> dict[str, Any]:
        """What :func:`dlmcache_cuda.ops.select_layers_` wants to know of all steps."""
        spec = self.spec
        return {
            "delta": self._delta,
            "reference": self._reference,
            "proxy_rank": self.proxy_rank,
            "signal": SIGNALS.index(spec.signal),
            "kv_rows": KV_ROWS.index(spec.kv_rows),
            "update_all": spec.reference_rows == "all",
            "reuse_output": spec.reuse == "output",
        }

    def remember_signal(self, layer: int, normed: Tensor, row_index: Tensor) -> None:
        """Makes the rows' proxies the reference of the next step (dense layers)."""
        if self.spec.signal == "proxy" and layer >= self.spec.first_layer:
            _, signal = self.layers[layer].project_with_proxy(normed, self.proxy_rank)
            ops.scatter_rows_(self.reference[layer], signal.contiguous(), row_index)

    def choose(
        self,
        layer: int,
        block: LladaBlock,
        normed: Tensor,
        rows: RowList,
        number: Tensor,
        max_rows: int,
        counts: Sequence[int] | None,
        forced: Tensor | None,
        cos_sin: Tensor,
    ) -> tuple[Tensor, RowList, LayerSelection]:
        """Picks ``number [S]`` rows of each slot to compute and writes their keys and values.

        Args:
            max_rows: of all slots together, at most.
            counts: ``number`` on the host, where it is known.

        Returns:
            Rotated queries of the computed rows, the rows, and what they were selected by.
        """
        spec = self.spec
        k_cache, v_cache = self.cache.k[layer], self.cache.v[layer]
        width = block.num_heads * cos_sin.shape[1]
        signal = kv = None
        if spec.signal == "proxy":
            first = width if spec.kv_rows == "carried" else None
            kv, signal = block.project_with_proxy(normed, self.proxy_rank, first)
        elif spec.signal == "value":
            signal = block.project(normed, width + k_cache.shape[1] * cos_sin.shape[1])
        if signal is None:
            drift = torch.zeros(len(normed), device=normed.device)
        else:
            update = spec.reference_rows == "all"
            drift = ops.cosine_drift_(signal, self.reference[layer], rows.row_index, update)
        if forced is not None:
            always = ops.gather_rows(forced, rows.row_index)
            drift = drift.masked_fill(always, torch.inf)
        row_index, places, cu_rows = ops.select_rows(
            drift, rows.row_index, rows.cu_rows, number, max_rows
        )
        computed = RowList(
            row_index, cu_rows, None if counts is None else tuple(counts), rows.capacity
        )
        if signal is not None and spec.reference_rows == "computed":
            fresh = ops.gather_rows(signal.contiguous(), places)
            ops.scatter_rows_(self.reference[layer], fresh, row_index)
        chosen = ops.gather_rows(normed, places)
        if spec.kv_rows == "carried":
            kv = block.project(normed, width) if kv is None else kv
            block.rotate(kv, rows.row_index, cos_sin, k_cache, v_cache, 0)
            q = block.project_q(chosen, row_index, cos_sin, k_cache)
        elif spec.kv_rows == "selected":
            q = block.project_qkv(chosen, row_index, cos_sin, k_cache, v_cache)
        else:
            last = width + k_cache.shape[1] * cos_sin.shape[1]
            qkv = torch.cat(
                (block.project(chosen, 0, last), ops.gather_rows(signal, places)), dim=1
            )
            q = block.rotate(qkv, row_index, cos_sin, k_cache, v_cache, block.num_heads)
        return q, computed, LayerSelection(rows, drift, places)

    def carry(
        self,
        layer: int,
        h: Tensor,
        rows: RowList,
        attn_out: Tensor,
        ff_out: Tensor,
        places: Tensor,
        norm_weight: Tensor | None,
    ) -> tuple[Tensor, Tensor | None]:
        """The carried rows behind the layer, and what the next layer's projections read of them."""
        h, normed = ops.delta_update_(
            self.delta[layer],
            h,
            rows.row_index,
            attn_out,
            ff_out,
            places,
            norm_weight,
            self.eps,
            self.spec.reuse == "output",
        )
        return h, None if norm_weight is None else normed
