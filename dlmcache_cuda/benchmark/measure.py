"""One decoding of a row's prompts, step by step under the clock."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dlmcache_cuda.benchmark.policies import make_config
from dlmcache_cuda.benchmark.prompts import Prompts
from dlmcache_cuda.benchmark.row import Row
from dlmcache_cuda.decoding.arguments import (
    DecodeSettings,
    check_batch_size,
    check_seeds,
    check_settings,
)
from dlmcache_cuda.decoding.decoder import SlotDecoder
from dlmcache_cuda.decoding.defaults import decode_defaults
from dlmcache_cuda.policies import CachePolicy, make_policy


@dataclass(slots=True)
class Measured:
    """What one repetition of a row took and gave.

    Attributes:
        seconds, cpu_seconds: of the whole decoding: wall time, and processor time of all threads.
        step_seconds: wall time of every forward.
        refreshed: whether a forward recomputed cached rows: by schedule, or since ``drifted`` says
            so.
        sequence_forwards: forwards summed over sequences.
        rows_computed: layer rows, as in ``DecodeStats``; rows_vanilla: of vanilla with as many
            forwards.
        texts: of the sequences in their order; empty where the decoding was cut short.
        digests: of the visible tokens of each sequence.
        phases: wall time by phase, see ``DecodeStats.seconds``.
        peak_bytes: of torch's allocator, on a GPU.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    step_seconds: list[float] = field(default_factory=list)
    refreshed: list[bool] = field(default_factory=list)
    sequence_forwards: int = 0
    rows_computed: int = 0
    rows_vanilla: int = 0
    visible_tokens: int = 0
    texts: list[str | None] = field(default_factory=list)
    digests: list[str] = field(default_factory=list)
    phases: dict[str, float] = field(default_factory=dict)
    peak_bytes: int | None = None

    @property
    def forwards(self) -> int:
        return len(self.step_seconds)

    def record(self, prompts: Prompts) -> dict[str, Any]:
        """What is kept of it, as plain values."""
        refreshes = [s for s, yes in zip(self.step_seconds, self.refreshed, strict=True) if yes]
        return {
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
            "forwards": self.forwards,
            "sequence_forwards": self.sequence_forwards,
            "visible_tokens": self.visible_tokens,
            "rows_computed": self.rows_computed,
            "rows_vanilla": self.rows_vanilla,
            "refresh_forwards": len(refreshes),
            "refresh_seconds": sum(refreshes),
            "step_seconds": sum(self.step_seconds),
            "right": prompts.right(self.texts) if self.texts else None,
            "digests": self.digests,
            "phases": self.phases,
            "peak_bytes": self.peak_bytes,
        }


def decode_arguments(row: Row) -> dict[str, Any]:
    """Keyword arguments of ``dlmcache_cuda.decode`` that do what the row does."""
    return {
        "gen_length": row.workload.gen_length,
        "block_length": row.block_length,
        "steps": row.steps,
        "threshold": row.threshold,
        "stop_at_eos": row.workload.early_stop,
        "cache": make_config(row.cache, row.settings),
    }


def check_row(model: Any, row: Row, trace: bool = False) -> tuple[CachePolicy, DecodeSettings]:
    """The row's policy and its checked settings.

    Raises:
        TypeError, ValueError: the model or the policy does not allow them.
    """
    given = decode_arguments(row)
    policy = make_policy(given.pop("cache"))
    return policy, check_settings(model, policy, **decode_defaults() | given | {"trace": trace})


def make_decoder(model: Any, row: Row, prompts: Prompts, trace: bool = False) -> SlotDecoder:
    """What ``dlmcache_cuda.decode`` would make for the row."""
    policy, settings = check_row(model, row, trace)
    return SlotDecoder.fitting(
        model,
        policy,
        settings,
        num_slots=check_batch_size(row.workload.batch_size, len(prompts.ids)),
        lengths=[ids.numel() + settings.gen_length for ids in prompts.ids],
    )


def drift_decides(row: Row) -> bool:
    """Whether drift, and not the schedule alone, says when the row's policy recomputes."""
    config = make_config(row.cache, row.settings)
    gamma = getattr(config, "gamma", None)
    return gamma is not None and gamma > -1


def find_drifted(
    model: Any,
    row: Row,
    prompts: Prompts,
    advance: Callable[[], None] = lambda: None,
    limit: int | None = None,
) -> set[int]:
    """Numbers of the forwards in which drift made layers recompute; decodes once, traced.

    Nothing is decoded for a row whose schedule alone decides.
    """
    if not drift_decides(row):
        return set()
    drifted: set[int] = set()

    def look(number: int, traces: list[Any]) -> None:
        if any(trace.boundary is not None for trace in traces):
            drifted.add(number)

    _loop(make_decoder(model, row, prompts, trace=True), row, prompts, limit, advance, look)
    return drifted


def measure(
    model: Any,
    row: Row,
    prompts: Prompts,
    *,
    drifted: frozenset[int] | set[int] = frozenset(),
    limit: int | None = None,
    advance: Callable[[], None] = lambda: None,
) -> Measured:
    """Decodes the row's prompts once.

    Args:
        drifted: from :func:`find_drifted`.
        limit: end after so many forwards.
        advance: called after every forward, outside of its time.
    """
    on_gpu = model.device.type == "cuda"
    if on_gpu:
        torch.cuda.reset_peak_memory_stats(model.device)
    cpu, begin = time.process_time(), time.perf_counter()
    decoder = make_decoder(model, row, prompts)
    found = _loop(decoder, row, prompts, limit, advance)
    found.seconds = time.perf_counter() - begin
    found.cpu_seconds = time.process_time() - cpu
    found.refreshed = [yes or n in drifted for n, yes in enumerate(found.refreshed)]
    found.phases = {k: v for k, v in decoder.timer.result().items() if k != "total"}
    if on_gpu:
        found.peak_bytes = torch.cuda.max_memory_allocated(model.device)
    return found


def _loop(
    decoder: SlotDecoder,
    row: Row,
    prompts: Prompts,
    limit: int | None,
    advance: Callable[[], None],
    look: Callable[[int, list[Any]], None] | None = None,
) -> Measured:
    """The loop of ``dlmcache_cuda.decode``, with a clock."""
    found = Measured()
    seeds = check_seeds(row.workload.seed, len(prompts.ids))
    finished: dict[int, Any] = {}
    cut_short: dict[int, Any] = {}
    waiting = iter(range(len(prompts.ids)))
    refreshes: dict[int, int] = {}
    while len(finished) < len(prompts.ids) and found.forwards != limit:
        while decoder.has_free_slot and (sequence := next(waiting, None)) is not None:
            decoder.add(sequence, prompts.ids[sequence], seeds[sequence])
            refreshes[sequence] = 0
        begin = time.perf_counter()
        ended = decoder.step()
        found.step_seconds.append(time.perf_counter() - begin)
        finished.update(ended)
        cut_short = {slot.sequence: slot for slot in decoder.slots if slot is not None}
        stepped = cut_short | ended
        found.refreshed.append(any(stepped[n].refreshes > refreshes[n] for n in stepped))
        refreshes.update({number: stepped[number].refreshes for number in stepped})
        if look is not None:
            look(found.forwards - 1, [stepped[number].trace[-1] for number in stepped])
        advance()
    layers = decoder.model.config.n_layers
    for slot in cut_short.values():
        found.sequence_forwards += slot.step
        found.rows_computed += slot.computed
        found.rows_vanilla += slot.step * slot.length * layers
    for sequence in finished.values():
        found.sequence_forwards += sequence.forwards
        found.rows_computed += sequence.rows_computed
        found.rows_vanilla += sequence.rows_vanilla
        found.visible_tokens += sequence.num_visible
    if len(finished) == len(prompts.ids):
        ordered = [finished[number] for number in range(len(prompts.ids))]
        found.texts = [sequence.text for sequence in ordered]
        found.digests = [digest(sequence.visible_ids) for sequence in ordered]
    return found


def digest(ids: Tensor) -> str:
    """Tells sequences of tokens apart."""
    text = ",".join(map(str, ids.tolist()))
    return hashlib.sha256(text.encode()).hexdigest()[:8]
