"""The singular proxy of the values (SPA-Cache, arXiv 2602.02544, section 3).

The projection of a layer's input onto the top right singular directions of its value weights,
scaled by the singular values: at full rank a rotation of the values, so that cosines between rows
are those of the values; below it the best approximation of its width. The bias that Dream adds to
its values is left out, as in the authors' code.

The proxy of a layer stands below its query, key and value projections, in one matrix, so that one
product makes the signal and what else is wanted of the same rows. A proxy of lower rank is the head
of one of higher rank: the matrix holds the highest that was asked for.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable, Iterator
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from tqdm.auto import tqdm

from dlmcache_cuda.freed_memory import give_back
from dlmcache_cuda.model.config import LladaConfig
from dlmcache_cuda.model.direction_file import (
    Directions,
    read_directions,
    tensor_bytes,
    write_directions,
)
from dlmcache_cuda.model.llada import Llada

# A decomposition costs the same whatever is kept of it; this much serves all published settings.
STORED_RANK = 256
_PROGRESS_DELAY = 2.0  # seconds before a progress bar appears


def stack_proxies(model: Llada, rank: float) -> int:
    """Makes the proxies of all layers part of the model's weights, unless they are already.

    The decompositions are computed once per model: they are kept as long as the model lives, and in
    a file for the next process (see :mod:`dlmcache_cuda.model.direction_file`). Other threads may
    compute with the model meanwhile; the weights themselves must not change after the first call.

    Args:
        model: the network.
        rank: directions, at most as many as there are; at most 1: as a fraction of the width of
            the values.

    Returns:
        The number of directions r, which ``LladaBlock.project_with_proxy`` takes.
    """
    limit = _limit(model.config)
    r = proxy_width(model.config, rank)
    with _LOCK:
        entry = _ENTRIES.setdefault(model, _Entry())
    with entry.lock:
        lacking = [layer.weights.proxy_rank < r for layer in model.layers]
        if any(lacking):
            if entry.directions is None or entry.directions.rank < r:
                entry.directions = _directions(model, r, min(limit, max(r, STORED_RANK)))
            model.whole_stack.forget()
            for layer, lacks, s, v in zip(model.layers, lacking, *entry.directions, strict=True):
                if lacks:
                    proxy = (s[:r, None] * v[:r]).to(model.device, model.dtype)
                    # One assignment: whoever reads the weights sees those before or those after.
                    layer.weights = layer.weights.with_proxy(proxy)
                    if model.device.type == "cpu":
                        give_back()
    return r


def singular_proxies(model: Llada, rank: float) -> list[Tensor]:
    """Projections ``[r, W]`` of all layers as they are computed with, in the model's dtype.

    See :func:`stack_proxies`. The tensors may be parts of the weights: they are not to be written.
    """
    r = stack_proxies(model, rank)
    proxies = []
    for layer in model.layers:
        weights = layer.weights
        proxies.append(weights.qkv.rows(weights.qkv_rows, weights.qkv_rows + r))
    return proxies


def proxy_width(config: LladaConfig, rank: float) -> int:
    """Directions that ``rank`` stands for."""
    kv_width = config.n_kv_heads * config.head_dim
    return min(_limit(config), int(rank) if rank > 1 else max(1, int(rank * kv_width)))


def directions_bytes(config: LladaConfig, rank: float) -> int:
    """Memory on the host of what proxies of a rank are made from."""
    stored = min(_limit(config), max(proxy_width(config, rank), STORED_RANK))
    return config.n_layers * stored * (config.d_model + 1) * 4


def _limit(config: LladaConfig) -> int:
    return min(config.n_kv_heads * config.head_dim, config.d_model)


class _Entry:
    """What is kept of a model."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.directions: Directions | None = None


_LOCK = threading.Lock()
_ENTRIES: WeakKeyDictionary[Llada, _Entry] = WeakKeyDictionary()


def _value_width(model: Llada) -> int:
    return model.config.n_kv_heads * model.config.head_dim


def _value_weights(model: Llada) -> Iterator[Tensor]:
    """``[Hkv D, W]`` of every layer, one at a time: where fp8 is stored they are made for it."""
    width = _value_width(model)
    for layer in model.layers:
        end = layer.weights.qkv_rows
        yield layer.weights.qkv.rows(end - width, end)


def _directions(model: Llada, needed: int, stored: int) -> Directions:
    """At least ``needed`` directions of every layer: from the file, else computed and written."""
    key = _fingerprint(_value_weights(model))
    layers = len(model.layers)
    directions = read_directions(key, (layers, needed, model.config.d_model))
    if directions is None:
        directions = _decompose(_value_weights(model), layers, stored, model.name)
        write_directions(key, directions)
    return directions


def _fingerprint(weights: Iterable[Tensor]) -> str:
    """Names a file after the weights, their shapes and their dtype."""
    digest = hashlib.sha256()
    for weight in weights:
        digest.update(f"{tuple(weight.shape)} {weight.dtype};".encode())
        digest.update(tensor_bytes(weight))
    return digest.hexdigest()


def _decompose(weights: Iterable[Tensor], layers: int, rank: int, name: str) -> Directions:
    values, vectors = [], []
    bar = tqdm(
        weights,
        total=layers,
        desc=f"{name}: SVD of the value weights",
        unit="layer",
        delay=_PROGRESS_DELAY,
        leave=False,
    )
    for weight in bar:
        _, s, vh = torch.linalg.svd(weight.float(), full_matrices=False)
        # Copies: a part would keep the whole.
        values.append(s[:rank].cpu().clone())
        vectors.append(vh[:rank].cpu().clone())
    return Directions(torch.stack(values), torch.stack(vectors))
