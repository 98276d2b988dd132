"""The singular proxy of the values (SPA-Cache)."""

from __future__ import annotations

import torch
from torch import Tensor

from dlmcache_cuda.model.llada import Llada


def singular_proxies(model: Llada, rank: float) -> list[Tensor]:
    """Projections ``[r, W]`` of all layers onto the top right singular directions of the value weights, scaled by the singular values."""
    config = model.config
    kv_width = config.n_kv_heads * config.head_dim
    limit = min(kv_width, config.d_model)
    r = min(limit, int(rank) if rank > 1 else max(1, int(rank * kv_width)))
    proxies = []
    for layer in model.layers:
        values = layer.weights.qkv[-kv_width:].float()
        _, s, vh = torch.linalg.svd(values, full_matrices=False)
        proxies.append((s[:r, None] * vh[:r]).to(model.dtype).contiguous())
    return proxies
