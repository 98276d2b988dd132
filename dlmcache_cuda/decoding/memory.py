"""How much memory a decode() call takes, told before anything is allocated."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch

from dlmcache_cuda.cache import KVCache
from dlmcache_cuda.decoding.arguments import DecodeSettings
from dlmcache_cuda.decoding.available_memory import available_bytes
from dlmcache_cuda.decoding.temporaries import Sizes, head_bytes, network_bytes
from dlmcache_cuda.model import Llada
from dlmcache_cuda.model.proxy import directions_bytes, proxy_width
from dlmcache_cuda.policies import CachePolicy, StackSpec

# Slots begin at multiples of this, so that rows of every slot are equally aligned.
_CAPACITY_STEP = 16
# Canvas.tokens and commit_step are int64, log_confidence is fp32, given bool.
_CANVAS_ENTRY = 8 + 4 + 1


@dataclass(frozen=True, slots=True)
class MemoryPrediction:
    """Bytes that a :func:`dlmcache_cuda.decode` call holds on the model's device at its peak.

    Attributes:
        weights: the model, which is there already, with the proxies it was asked for before.
        kv_cache: keys and values of all slots.
        stack: what the cache method keeps beside them: layer inputs, deltas, references.
        directions: proxies that the model does not have yet and, on a CPU, the singular vectors
            that proxies are made from.
        canvas: tokens and records of commits.
        network: temporaries of the widest forward.
        head: temporaries of the predictions, chunks of logits among them.
    """

    weights: int
    kv_cache: int
    stack: int
    directions: int
    canvas: int
    network: int
    head: int

    @property
    def needed(self) -> int:
        """What must still be available: everything but the weights. The network's temporaries are
        gone when the head runs, so the larger of the two counts."""
        return self.total - self.weights

    @property
    def total(self) -> int:
        buffers = self.weights + self.kv_cache + self.stack + self.directions + self.canvas
        return buffers + max(self.network, self.head)

    def to_dict(self) -> dict[str, int]:
        """All parts and ``total``."""
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return parts | {"total": self.total}

    def __str__(self) -> str:
        parts = [f"{name} {readable(size)}" for name, size in self.to_dict().items() if size]
        return ", ".join(parts)


def readable(size: int) -> str:
    """``1.5 GiB``, ``20.0 MiB``, ``512 B``."""
    for unit, bytes_ in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size >= bytes_:
            return f"{size / bytes_:.1f} {unit}"
    return f"{size} B"


def slot_capacity(longest: int) -> int:
    """Positions of a slot that holds canvases of up to ``longest``."""
    return -(-longest // _CAPACITY_STEP) * _CAPACITY_STEP


def predict(
    model: Llada,
    policy: CachePolicy,
    settings: DecodeSettings,
    num_slots: int,
    *,
    lengths: Sequence[int],
    embeds: bool = False,
) -> MemoryPrediction:
    """What checked arguments would need; see :func:`dlmcache_cuda.predict_memory`.

    Args:
        lengths: of all canvases.
        embeds: prompts are given as embeddings.
    """
    config = model.config
    guided = settings.sampler.cfg_scale > 0
    copies = 2 if guided else 1
    lengths = sorted(map(int, lengths), reverse=True)
    capacity = slot_capacity(lengths[0])
    entries = num_slots * capacity
    spec = policy.stack_spec(config.n_layers)
    sizes = Sizes(
        config=config,
        itemsize=model.dtype.itemsize,
        on_cuda=model.device.type == "cuda",
        # Sequences wait for slots in any order: the widest step has the longest ones.
        rows=copies * sum(lengths[:num_slots]),
        longest=lengths[0],
        entries=copies * entries,
        threads=torch.get_num_threads(),
        head_rows=model.head_rows_at_once,
    )
    predicted = settings.gen_length if policy.head_scope == "all" else settings.block_length
    mask_is_final = policy.mask_is_final and not settings.sampler.rule.leaves_masks
    canvas = copies * entries * 8 + entries * _CANVAS_ENTRY + (entries * 8 if mask_is_final else 0)
    canvas += capacity * 8  # its positions
    if not settings.sampler.confidence_is_log_prob:
        canvas += entries * 4
    if embeds:
        canvas += entries * config.d_model * model.dtype.itemsize
    return MemoryPrediction(
        weights=model.weight_bytes,
        kv_cache=KVCache.predict_bytes(
            config.n_layers, copies * num_slots, capacity, config.n_kv_heads, config.head_dim,
            model.dtype,
        ),
        stack=stack_bytes(model, spec, copies * entries),
        directions=_directions(model, spec),
        canvas=canvas,
        network=network_bytes(sizes, spec, predicted * num_slots),
        head=head_bytes(sizes, spec, settings.sampler, predicted * num_slots),
    )  # fmt: skip


def _has_proxies(spec: StackSpec) -> bool:
    return spec.selection is not None and spec.selection.signal == "proxy"


def _directions(model: Llada, spec: StackSpec) -> int:
    if not _has_proxies(spec):
        return 0
    rank, config = spec.selection.proxy_rank, model.config
    width = proxy_width(config, rank)
    missing = sum(max(width - layer.weights.proxy_rank, 0) for layer in model.layers)
    kept = 0 if model.device.type == "cuda" else directions_bytes(config, rank)
    return missing * config.d_model * model.dtype.itemsize + kept


def stack_bytes(model: Llada, spec: StackSpec, num_rows: int) -> int:
    """What :attr:`dlmcache_cuda.stack.Stack.nbytes` would be."""
    config, itemsize = model.config, model.dtype.itemsize
    held = flags = 0
    if spec.tracking is not None:
        held += config.n_layers * num_rows * config.d_model
        flags += config.n_layers * (num_rows + 1) + num_rows
    if spec.selection is not None:
        layers = config.n_layers - spec.selection.first_layer
        held += layers * num_rows * config.d_model
        if _has_proxies(spec):
            width = proxy_width(config, spec.selection.proxy_rank)
            held += layers * num_rows * width
    return held * itemsize + flags


def check_memory(model: Llada, prediction: MemoryPrediction) -> None:
    """Refuses what cannot fit.

    Raises:
        MemoryError: the model's device has less memory available than is needed.
    """
    available = available_bytes(model.device)
    if available is None or prediction.needed <= available:
        return
    raise MemoryError(
        f"decoding needs {prediction.needed} bytes ({readable(prediction.needed)}) beside the "
        f"weights, but {available} bytes ({readable(available)}) are available on "
        f"{model.device}; lower batch_size, gen_length or the length of the prompts, or choose a "
        f"cache that keeps less (predicted: {prediction})"
    )
