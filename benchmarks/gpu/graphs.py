"""Decoding with and without CUDA graphs, where ``decode`` has them."""

from __future__ import annotations

import inspect

import dlmcache_cuda


def modes(device: str) -> dict[str, dict[str, bool]]:
    """Arguments of ``decode`` by mode; ``eager`` alone where nothing can be captured."""
    if "cuda_graphs" not in inspect.signature(dlmcache_cuda.decode).parameters:
        return {"eager": {}}
    if device != "cuda":
        return {"eager": {"cuda_graphs": False}}
    return {"captured": {"cuda_graphs": True}, "eager": {"cuda_graphs": False}}
