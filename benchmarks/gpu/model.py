"""A model with random weights, made where it is used: no checkpoint is written or read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dlmcache_cuda.model import Llada
from dlmcache_cuda.model.config import LladaConfig
from dlmcache_cuda.model.linear import PlainLinear
from dlmcache_cuda.model.token_ids import resolve_token_ids
from dlmcache_cuda.model.weights import BlockWeights, ModelWeights
from dlmcache_cuda.testing.tiny_model import random_config

#: LLaDA-8B's config.json, and one for dry runs.
CONFIGS: dict[str, dict[str, Any]] = {
    "8b": {
        "d_model": 4096,
        "n_layers": 32,
        "n_heads": 32,
        "n_kv_heads": 32,
        "mlp_hidden_size": 12288,
        "vocab_size": 126464,
        "rope_theta": 500000.0,
        "max_sequence_length": 4096,
        "mask_token_id": 126336,
        "eos_token_id": 126081,
        "pad_token_id": 126081,
    },
    "tiny": {},
}


def size_config(size: str) -> LladaConfig:
    """The config of ``8b`` or ``tiny``."""
    return LladaConfig.from_dict(random_config(**CONFIGS[size]), size)


def random_llada(size: str, device: str, dtype: torch.dtype, seed: int = 0) -> Llada:
    """The scales are those of :func:`dlmcache_cuda.testing.tiny_model.random_weights`."""
    config = size_config(size)
    generator = torch.Generator(device).manual_seed(seed)
    width, inner = config.d_model, config.mlp_hidden_size
    kv_width = config.n_kv_heads * config.head_dim

    def matrix(rows: int, columns: int, gain: float = 1.0) -> Tensor:
        values = torch.randn(rows, columns, generator=generator, dtype=dtype, device=device)
        return values.mul_(gain / columns**0.5)

    def scale() -> Tensor:
        return 1 + 0.2 * torch.randn(width, generator=generator, dtype=dtype, device=device)

    def qkv() -> Tensor:
        packed = matrix(width + 2 * kv_width, width)
        packed[: width + kv_width] *= 1.5  # queries and keys
        return packed

    blocks = tuple(
        BlockWeights(
            attn_norm=scale(),
            qkv=PlainLinear(qkv()),
            attn_out=PlainLinear(matrix(width, width)),
            ff_norm=scale(),
            gate_up=PlainLinear(matrix(2 * inner, width)),
            ff_out=PlainLinear(matrix(width, inner)),
        )
        for _ in range(config.n_layers)
    )
    vocab = config.embedding_size
    weights = ModelWeights(
        embedding=matrix(vocab, width, width**0.5),
        final_norm=scale(),
        head=matrix(vocab, width, 2.0),
        blocks=blocks,
    )
    name = f"random-{size}"
    return Llada(config, weights, resolve_token_ids(config, name), Path(name), name)


def block_bytes(model: Llada) -> int:
    """Weights that every forward reads: all but the embedding, final norm and head."""
    outside = (model.embedding, model.final_norm, model.head)
    return model.weight_bytes - sum(tensor.nbytes for tensor in outside)


def head_bytes(model: Llada) -> int:
    """Weights that the predictions of a step read."""
    return model.final_norm.nbytes + model.head.nbytes


def cached_bytes(model: Llada, positions: int) -> int:
    """Keys and values of so many positions, all layers."""
    config = model.config
    return (
        2
        * config.n_layers
        * positions
        * config.n_kv_heads
        * config.head_dim
        * (model.dtype.itemsize)
    )
