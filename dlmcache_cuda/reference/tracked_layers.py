"""Plain torch twin of :mod:`dlmcache_cuda.ops.tracked_layers`."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from dlmcache_cuda.reference.attention import attention_rows
from dlmcache_cuda.reference.attention_mass import attention_mass
from dlmcache_cuda.reference.layers import among_all, layer_weights
from dlmcache_cuda.reference.norm import add_rms_norm, rms_norm
from dlmcache_cuda.reference.rope_cache import rope_scatter_kv_
from dlmcache_cuda.reference.row_list import find_rows
from dlmcache_cuda.reference.rows import gather_rows, scatter_rows_
from dlmcache_cuda.reference.select import select_rows
from dlmcache_cuda.reference.swiglu import swiglu
from dlmcache_cuda.reference.tracked_drift import tracked_similarity


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
    """See :func:`dlmcache_cuda.ops.track_layers_`; float64 is accepted too."""
    capacity, head_dim = cos_sin.shape
    scale, width = head_dim**-0.5, num_heads * head_dim
    wide = torch.promote_types(h.dtype, torch.float32)
    measured = h.new_full((len(k_cache), len(kv_lens)), torch.inf, dtype=wide)
    tracked_places = find_rows(row_index, cu_rows, tracked_index, capacity)
    window_places = find_rows(row_index, cu_rows, window_index, capacity)
    ff_out = h.new_zeros(h.shape)
    of_layers = layer_weights(weights, biases, len(k_cache))
    for layer in range(first_layer, len(k_cache)):
        k, v = k_cache[layer], v_cache[layer]
        attn_norm, qkv, out, ff_norm, gate_up, down, bias = of_layers[layer]
        if layer == first_layer:
            normed = rms_norm(h, attn_norm, eps)
        else:
            h, normed = add_rms_norm(h, ff_out, attn_norm, eps)

        before = rms_norm(gather_rows(inputs[layer], tracked_index), attn_norm, eps)
        before = F.linear(before, qkv[:width], None if bias is None else bias[:width])
        none = k[:, :0]
        q_old = rope_scatter_kv_(before, cos_sin, tracked_index, capacity, num_heads, none, none)
        k_old = gather_rows(k, row_index)
        scatter_rows_(inputs[layer], h, row_index)

        projected = F.linear(normed, qkv, bias)
        q = rope_scatter_kv_(projected, cos_sin, row_index, capacity, num_heads, k, v)
        if tested.any():
            alike = tracked_similarity(
                q_old, gather_rows(q, tracked_places), k, k_old, row_index, cu_rows, cu_tracked,
                kv_lens, capacity, scale, similarity,
            )  # fmt: skip
            measured[layer] = alike.masked_fill(~tested, torch.inf)
        if len(window_index):
            q_window = gather_rows(q, window_places)
            mass = attention_mass(q_window, k, cu_window, kv_lens, capacity, scale)
            score, most = gather_rows(mass, open_index), int(limits.sum())
            selected = select_rows(score, open_index, cu_open, limits, most)[0]
            found[layer, selected[selected >= 0]] = True

        whole, cu_attending = h, cu_rows
        if narrows := read_places is not None and layer + 1 == len(k_cache):
            q, h, cu_attending = gather_rows(q, read_places), gather_rows(h, read_places), cu_read
        attended = attention_rows(q, k, v, cu_attending, kv_lens, capacity, scale)[0]
        h, normed = add_rms_norm(h, F.linear(attended.flatten(1), out), ff_norm, eps)
        ff_out = F.linear(swiglu(F.linear(normed, gate_up)), down)
        if (measured[layer] < gamma).any():
            break
    out = among_all(whole, h + ff_out, read_places) if narrows else h + ff_out
    return out, measured
