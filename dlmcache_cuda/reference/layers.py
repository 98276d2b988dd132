"""Plain torch twin of :mod:`dlmcache_cuda.ops.layers`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dlmcache_cuda.reference.attention import attention_rows
from dlmcache_cuda.reference.norm import add_rms_norm, rms_norm
from dlmcache_cuda.reference.rope_cache import rope_scatter_kv_
from dlmcache_cuda.reference.rows import gather_rows, scatter_rows_
from dlmcache_cuda.reference.swiglu import swiglu


class LayerWeights(NamedTuple):
    """Weights of a layer, the projections in one matrix."""

    attn_norm: Tensor
    qkv: Tensor
    attn_out: Tensor
    ff_norm: Tensor
    gate_up: Tensor
    ff_out: Tensor
    bias: Tensor | None


def layer_weights(
    weights: Sequence[Tensor], biases: Sequence[Tensor], layers: int
) -> list[LayerWeights]:
    """Of every layer, from the lists that the operators are given; packed ones are unpacked."""
    each = len(weights) // layers
    parts = each - 5

    def one(layer: int) -> LayerWeights:
        own = [w.to_dense() if w.is_mkldnn else w for w in weights[each * layer :][:each]]
        bias = torch.cat(list(biases[parts * layer :][:parts])) if len(biases) else None
        return LayerWeights(own[0], torch.cat(own[1 : 1 + parts]), *own[1 + parts :], bias)

    return [one(layer) for layer in range(layers)]


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
    """See :func:`dlmcache_cuda.ops.forward_layers_`; float64 is accepted too."""
    capacity, head_dim = cos_sin.shape
    ff_out = None
    of_layers = layer_weights(weights, biases, len(k_cache))
    for layer, (k, v) in enumerate(zip(k_cache, v_cache, strict=True)):
        attn_norm, qkv, out, ff_norm, gate_up, down, bias = of_layers[layer]
        if ff_out is None:
            normed = rms_norm(h, attn_norm, eps)
        else:
            h, normed = add_rms_norm(h, ff_out, attn_norm, eps)
        projected = F.linear(normed, qkv, bias)
        q = rope_scatter_kv_(projected, cos_sin, row_index, capacity, num_heads, k, v)
        whole = h
        if narrows := read_places is not None and layer + 1 == len(k_cache):
            q, h, cu_rows = gather_rows(q, read_places), gather_rows(h, read_places), cu_read
        attended = attention_rows(q, k, v, cu_rows, kv_lens, capacity, head_dim**-0.5)[0]
        h, normed = add_rms_norm(h, F.linear(attended.flatten(1), out), ff_norm, eps)
        ff_out = F.linear(swiglu(F.linear(normed, gate_up)), down)
    return among_all(whole, h + ff_out, read_places) if narrows else h + ff_out


def among_all(whole: Tensor, read: Tensor, read_places: Tensor) -> Tensor:
    """The rows that were read, among rows that stay as they were."""
    whole = whole.clone()
    scatter_rows_(whole, read, read_places)
    return whole
