"""Budgets per layer, measured from a model that none was published for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dlmcache_cuda import ops
from dlmcache_cuda.cache import RowList
from dlmcache_cuda.decoding.arguments import (
    DecodeSettings,
    check_batch_size,
    check_seeds,
    check_settings,
)
from dlmcache_cuda.decoding.decoder import SlotDecoder
from dlmcache_cuda.decoding.defaults import decode_defaults
from dlmcache_cuda.decoding.prompts import tokenize_prompts
from dlmcache_cuda.model import Llada
from dlmcache_cuda.policies import make_policy
from dlmcache_cuda.policies.base import check_number


def measure_layer_ratios(
    model: Llada,
    prompts: str | Sequence[Any] | Tensor,
    *,
    gen_length: int,
    block_length: int | None = None,
    steps: int | None = None,
    threshold: float | None = None,
    mean_ratio: float = 0.16,
    min_ratio: float = 1 / 16,
    seed: int | Sequence[int] | None = 0,
    batch_size: int | None = None,
) -> tuple[float, ...]:
    """How large a share of the rows each layer of a model should recompute, found by measuring it.

    The prompts are decoded without a cache. At every step and in every layer the values of each
    generated row are compared with those of the step before; a layer in which many rows drift needs
    a large budget. One threshold on the drift, common to all layers and steps, is chosen such that
    the shares of rows above it are ``mean_ratio`` on average over the layers; the share of each
    layer is its ratio.

    >>> ratios = measure_layer_ratios(model, prompts, gen_length=256, block_length=32)
    >>> decode(model, prompts, cache=SpaConfig(layer_ratios=ratios), ...)

    The same numbers serve ``ComposedConfig(layer_ratios=...)``.

    Args:
        model: from :func:`dlmcache_cuda.load`.
        prompts: as for ``decode``; a few typical ones. The work is that of decoding them without a
            cache, and a copy of all values is kept.
        gen_length, block_length, steps, threshold: as they will be used.
        mean_ratio: average over all layers. SPA-Cache's published curves have 0.16 to 0.19.
        min_ratio: no layer gets less. Default: 1/16, the floor of SPA-Cache's scripts.
        seed, batch_size: as for ``decode``.

    Returns:
        One ratio in ``[min_ratio, 1]`` per layer. Their mean is ``mean_ratio``. Layer 0 counts like
        the others, although neither method that takes the ratios skips rows there.

    Raises:
        TypeError, ValueError: an argument is not as above, or no sequence had two steps.
        MemoryError: the device has less memory available than decoding takes.
    """
    check_number("min_ratio", min_ratio, 0, 1)
    check_number("mean_ratio", mean_ratio, min_ratio, 1)
    policy = make_policy("none")
    given = {
        "gen_length": gen_length,
        "block_length": block_length,
        "steps": steps,
        "threshold": threshold,
    }
    settings = check_settings(model, policy, **decode_defaults() | given)
    prompt_ids = tokenize_prompts(model, prompts, settings.gen_length)
    seeds = check_seeds(seed, len(prompt_ids))
    slots = check_batch_size(batch_size, len(prompt_ids))
    return ratios_of_drift(
        measure_drifts(model, settings, prompt_ids, seeds, slots), mean_ratio, min_ratio
    )


def measure_drifts(
    model: Llada,
    settings: DecodeSettings,
    prompt_ids: Sequence[Tensor],
    seeds: Sequence[int],
    num_slots: int,
) -> Tensor:
    """``[L, n]`` fp32: how far the values of generated rows drift from step to step, per layer."""
    waiting = list(enumerate(prompt_ids))
    lengths = [ids.numel() + settings.gen_length for ids in prompt_ids]
    decoder = SlotDecoder.fitting(
        model, make_policy("none"), settings, num_slots=num_slots, lengths=lengths
    )
    recorder = _DriftRecorder(decoder)
    while waiting or not decoder.idle:
        while waiting and decoder.has_free_slot:
            sequence, ids = waiting.pop(0)
            decoder.add(sequence, ids, seeds[sequence])
        recorder.step()
    return recorder.drifts()


class _DriftRecorder:
    """Steps a decoder and compares the values of generated rows with those of the step before."""

    def __init__(self, decoder: SlotDecoder) -> None:
        model = decoder.model
        self.decoder = decoder
        values = decoder.canvas.cache.v
        self._before = [layer.flatten(1).clone() for layer in values]
        self._found: list[list[Tensor]] = [[] for _ in values]
        # The bias that Dream adds is no drift, but would hide it.
        self._bias: list[Tensor | float] = [
            0.0
            if block.weights.qkv_bias is None
            else block.weights.qkv_bias[-self._before[0].shape[1] :]
            for block in model.layers
        ]

    def step(self) -> None:
        slots = list(self.decoder.slots)
        self.decoder.step()
        shift = self.decoder.model.shift
        begin = [0 if slot is None else max(slot.prompt_length - shift, 0) for slot in slots]
        end = [0 if slot is None else slot.length for slot in slots]
        device = self.decoder.model.device
        rows = RowList.from_ranges(begin, end, self.decoder.canvas.capacity, device)
        # Rows of a first step have nothing to be compared with.
        compared = torch.tensor([slot is not None and slot.step > 1 for slot in slots])
        compared = compared.repeat_interleave(torch.tensor(rows.counts))
        for layer, values in enumerate(self.decoder.canvas.cache.v):
            signal = ops.gather_rows(values.flatten(1), rows.row_index) - self._bias[layer]
            drift = ops.cosine_drift_(signal, self._before[layer], rows.row_index, True)
            self._found[layer].append(drift.cpu()[compared])

    def drifts(self) -> Tensor:
        """``[L, n]`` fp32: all drifts of each layer."""
        return torch.stack([torch.cat(found) for found in self._found])


def ratios_of_drift(drifts: Tensor, mean_ratio: float, min_ratio: float) -> tuple[float, ...]:
    """Shares of rows above a common threshold, at least ``min_ratio``, ``mean_ratio`` on average.

    Args:
        drifts: ``[L, n]``, ``n > 0``.
    """
    layers, count = drifts.shape
    if count == 0:
        raise ValueError("every sequence ended with its first step: nothing could be compared")
    # A drift that overflowed is as large as any.
    drifts = drifts.double().nan_to_num(nan=2.0).sort(dim=1).values
    # A threshold below all drifts counts every row.
    thresholds = torch.cat((drifts.new_full((1,), -1.0), drifts.flatten().unique()))

    def ratios(index: int) -> Tensor:
        cut = thresholds[index].expand(layers, 1).contiguous()
        above = count - torch.searchsorted(drifts, cut, right=True).flatten()
        return (above / count).clamp(min=min_ratio)

    # The mean falls from 1 to min_ratio along the thresholds: the last one at or above mean_ratio.
    low, high = 0, len(thresholds) - 1
    while high - low > 1:
        middle = (low + high) // 2
        if ratios(middle).mean() >= mean_ratio:
            low = middle
        else:
            high = middle
    more, less = ratios(low), ratios(high)
    # Many rows may share one drift: go part of the way, so that the mean is met.
    span = float(more.mean() - less.mean())
    part = (mean_ratio - float(less.mean())) / span if span > 0 else 0.0
    met = less + min(max(part, 0.0), 1.0) * (more - less)
    return tuple(met.clamp(min_ratio, 1.0).tolist())
