"""Plain torch twin of :mod:`dlmcache_cuda.ops.selected_layers`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dlmcache_cuda.reference.attention import attention_rows
from dlmcache_cuda.reference.delta import delta_update_
from dlmcache_cuda.reference.drift import cosine_drift_
from dlmcache_cuda.reference.layers import layer_weights
from dlmcache_cuda.reference.norm import add_rms_norm, rms_norm
from dlmcache_cuda.reference.rope_cache import rope_scatter_kv_
from dlmcache_cuda.reference.rows import gather_rows, scatter_rows_
from dlmcache_cuda.reference.select import select_rows
from dlmcache_cuda.reference.swiglu import swiglu

PROXY, VALUE = 1, 2  # signal
CARRIED, SELECTED = 0, 1  # kv_rows


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
    """See :func:`dlmcache_cuda.ops.select_layers_`; float64 is accepted too."""
    capacity, head_dim = cos_sin.shape
    layers, width = len(k_cache), num_heads * head_dim
    first = layers - len(delta)
    values_begin = width + k_cache.shape[2] * head_dim
    end = values_begin + k_cache.shape[2] * head_dim
    every = torch.arange(len(h), device=h.device).masked_fill(row_index < 0, -1)
    of_layers = layer_weights(weights, biases, layers)
    normed = rms_norm(h, of_layers[0].attn_norm, eps)
    for layer in range(layers):
        _, stacked, w_out, ff_norm, gate_up, down, biased = of_layers[layer]
        k, v = k_cache[layer], v_cache[layer]
        of_layer = layer - first
        moved = v.flatten(1) if signal == VALUE else None
        if signal == PROXY and layer >= first:
            moved = reference[of_layer]

        def project(
            x: Tensor,
            begin: int,
            stop: int,
            stacked: Tensor = stacked,
            biased: Tensor | None = biased,
        ) -> Tensor:
            bias = None if biased is None else biased[begin:stop]
            return F.linear(x, stacked[begin:stop], bias)

        def rotate(
            projected: Tensor, rows: Tensor, heads: int, k: Tensor = k, v: Tensor = v
        ) -> Tensor:
            return rope_scatter_kv_(projected, cos_sin, rows, capacity, heads, k, v)

        if sizes[layer] < 0:
            rows, cu, places = row_index, cu_rows, every
            q = rotate(project(normed, 0, end), rows, num_heads)
            if signal == PROXY and layer >= first:
                scatter_rows_(moved, project(normed, end, end + proxy_rank), rows)
        else:
            drift = h.new_zeros(len(h), dtype=torch.promote_types(h.dtype, torch.float32))
            now = kv = None
            if signal == PROXY:
                begin = width if kv_rows == CARRIED else end
                kv, now = project(normed, begin, end + proxy_rank).tensor_split([end - begin], 1)
            elif signal == VALUE:
                now = project(normed, values_begin, end)
            if now is not None:
                drift = cosine_drift_(now, moved, row_index, update_all)
            if forced is not None:
                drift = drift.masked_fill(gather_rows(forced, row_index), torch.inf)
            rows, places, cu = select_rows(drift, row_index, cu_rows, numbers[layer], sizes[layer])
            if now is not None and not update_all:
                scatter_rows_(moved, gather_rows(now, places), rows)
            chosen = gather_rows(normed, places)
            if kv_rows == CARRIED:
                rotate(project(normed, width, end) if kv is None else kv, row_index, 0)
                q = rope_scatter_kv_(
                    project(chosen, 0, width), cos_sin, rows, capacity, num_heads, k[:, :0],
                    v[:, :0],
                )  # fmt: skip
            elif kv_rows == SELECTED:
                q = rotate(project(chosen, 0, end), rows, num_heads)
            else:
                qk = project(chosen, 0, values_begin)
                q = rotate(torch.cat((qk, gather_rows(now, places)), dim=1), rows, num_heads)

        attended = attention_rows(q, k, v, cu, kv_lens, capacity, head_dim**-0.5)[0]
        attn_out = F.linear(attended.flatten(1), w_out)
        entered = h if sizes[layer] < 0 else gather_rows(h, places)
        mid, mid_normed = add_rms_norm(entered, attn_out, ff_norm, eps)
        ff_out = F.linear(swiglu(F.linear(mid_normed, gate_up)), down)
        norm = of_layers[layer + 1].attn_norm if layer + 1 < layers else None
        if layer < first:
            after = of_layers[0].attn_norm if norm is None else norm
            h, normed = add_rms_norm(mid, ff_out, after, eps)
        else:
            h, normed = delta_update_(
                delta[of_layer], h, row_index, attn_out, ff_out, places, norm, eps, reuse_output
            )
    return h
