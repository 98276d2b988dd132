"""Runs ``decode`` and the oracles on the same prompts and reports where they part."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

import dlmcache_cuda

from . import dkv
from .checkpoint import MASK, write_checkpoint
from .composed import ComposedOptions, decode_composed
from .d2 import D2Options, decode_d2
from .dllm import DllmOptions, decode_dllm
from .elastic import ElasticOptions, decode_elastic
from .fast_dllm import BlockCacheOptions, decode_fast_dllm
from .model import PlainLlada
from .sequence import Record, Settings, TokenIds
from .spa import SpaOptions, decode_spa
from .vanilla import decode_vanilla

# The models' fp32 logits are off by up to 7e-6; guidance subtracts two of them.
MARGIN = 2e-5
# Unit vectors of fp32 states are off by up to 2e-6 in length, and so are their distances.
ROW_GAP = 2e-5
SIMILARITY_ERROR = 2e-5


@dataclasses.dataclass(frozen=True)
class NoOptions:
    pass


def _vanilla(model, prompt, settings, ids, options) -> Record:
    return decode_vanilla(model, prompt, settings, ids)


def _prefix(model, prompt, settings, ids, options) -> Record:
    return decode_fast_dllm(model, prompt, settings, ids, "prefix", options)


def _dual(model, prompt, settings, ids, options) -> Record:
    return decode_fast_dllm(model, prompt, settings, ids, "dual", options)


# Name of a policy -> what its config is turned into, and its oracle. Fields and defaults of the
# options are written down beside the oracles, so that a config that differs is noticed.
ORACLES: dict[str, tuple[type, Callable[..., Record]]] = {
    "none": (NoOptions, _vanilla),
    "prefix": (BlockCacheOptions, _prefix),
    "dual": (BlockCacheOptions, _dual),
    "dkv-decode": (dkv.DecodeOptions, dkv.decode_dkv_decode),
    "dkv-greedy": (dkv.GreedyOptions, dkv.decode_dkv_greedy),
    "dkv-prefill": (dkv.PrefillOptions, dkv.decode_dkv_prefill),
    "dkv-pd": (dkv.PdOptions, dkv.decode_dkv_pd),
    "spa": (SpaOptions, decode_spa),
    "dllm": (DllmOptions, decode_dllm),
    "elastic": (ElasticOptions, decode_elastic),
    "d2": (D2Options, decode_d2),
    "composed": (ComposedOptions, decode_composed),
}


@dataclasses.dataclass(frozen=True)
class Pair:
    """The same checkpoint loaded by the package (fp32) and by the oracle (fp64)."""

    model: Any
    plain: PlainLlada
    ids: TokenIds


@functools.lru_cache(maxsize=16)
def load_pair(seed: int, device: str = "cpu", **options: Any) -> Pair:
    with TemporaryDirectory() as folder:
        write_checkpoint(Path(folder), seed, **options)
        model = dlmcache_cuda.load(folder, device=device, dtype=torch.float32)
        plain = PlainLlada.from_folder(folder)
    ids = TokenIds(model.mask_token_id, tuple(model.end_token_ids), model.pad_token_id)
    return Pair(model, plain, ids)


def random_prompts(seed: int, lengths: list[int]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(MASK, (length,), generator=generator) for length in lengths]


def make_config(name: str, **options: Any) -> Any:
    """The config object of a policy."""
    return dlmcache_cuda.available_policies()[name].Config(**options)


def decode_arguments(settings: Settings) -> dict[str, Any]:
    """What ``decode`` gets, except for the seeds, which are one per prompt."""
    arguments = dataclasses.asdict(settings)
    del arguments["seed"], arguments["region"]
    return arguments


def oracle(pair: Pair, prompt: torch.Tensor, settings: Settings, cache: Any) -> Record:
    """``cache`` as for ``decode``: a name or a config object."""
    policies = dlmcache_cuda.available_policies()
    config = policies[cache].Config() if isinstance(cache, str) else cache
    name = next(name for name, policy in policies.items() if type(config) is policy.Config)
    options, decode_oracle = ORACLES[name]
    if isinstance(cache, str):
        assert options(**dataclasses.asdict(config)) == options(), f"defaults of {name}: {config}"
    return decode_oracle(
        pair.plain, prompt.tolist(), settings, pair.ids, options(**dataclasses.asdict(config))
    )


def decided_steps(record: Record, settings: Settings) -> int:
    """Number of steps before the first that made a decision which rounding of fp32 may turn."""
    margin = MARGIN * (1 + 2 * settings.cfg_scale)
    close = (
        step
        for step, (of_tokens, of_rows) in enumerate(
            zip(record.margins, record.row_gaps, strict=True)
        )
        if of_tokens <= margin or of_rows <= ROW_GAP * (1 + 2 * settings.cfg_scale)
    )
    return next(close, record.forwards)


def commits(commit_step: list[int], ids: list[int], step: int) -> dict[int, int]:
    """Position in the generation region -> token, for one step."""
    return {g: ids[g] for g, s in enumerate(commit_step) if s == step}


def trace_difference(trace: Any, record: Record, step: int) -> str | None:
    """How the rows of one traced step differ from the record's."""
    if len(trace) <= step:
        return f"step {step} differs: the trace has {len(trace)} steps only"
    got = trace[step]
    expected = record.layer_rows[step]
    if len(got.rows) != len(expected):
        return f"step {step} differs: {len(got.rows)} layers traced, {len(expected)} expected"
    for layer, (mine, theirs) in enumerate(zip(got.rows, expected, strict=True)):
        if mine.tolist() != sorted(theirs):
            return (
                f"step {step}, layer {layer} differs: decode computes rows {mine.tolist()}, "
                f"the oracle {sorted(theirs)} (smallest gap of the step "
                f"{record.row_gaps[step]:.2g})"
            )
    for name, mine, theirs in [
        ("refresh", got.refresh, step in record.refresh_steps),
        ("boundary", got.boundary, record.boundaries[step]),
    ]:
        if mine != theirs:
            return f"step {step} differs: {name} is {mine} in decode, {theirs} in the oracle"
    if record.similarities:
        mine, theirs = got.similarity, record.similarities[step]
        same = len(mine) == len(theirs) and all(
            (a is None) == (b is None) and (a is None or abs(a - b) < SIMILARITY_ERROR)
            for a, b in zip(mine, theirs, strict=True)
        )
        if not same:
            return f"step {step} differs: similarities {mine} in decode, {theirs} in the oracle"
    return None


def difference(sequence: Any, record: Record, pair: Pair, steps: int | None = None) -> str | None:
    """The first thing in which a decoded sequence differs from its record; None when equal.

    ``steps``: how many steps are compared, all of them and the result by default. A sequence that
    carries a trace must have computed the same rows.
    """
    ids, commit_steps = sequence.ids.tolist(), sequence.commit_step.tolist()
    trace = getattr(sequence, "trace", None)
    last = max([*commit_steps, *record.commit_step, record.forwards - 1])
    for step in range(last + 1 if steps is None else steps):
        if trace is not None and step < record.forwards:
            found = trace_difference(trace, record, step)
            if found is not None:
                return found
        got = commits(commit_steps, ids, step)
        expected = commits(record.commit_step, record.ids, step)
        if got != expected:
            return (
                f"step {step} differs: decode commits {got}, the oracle {expected} "
                f"(position: token; smallest margin of the oracle {record.margin:.2g})"
            )
    for g, step in enumerate(record.commit_step):
        if steps is not None and step >= steps:
            continue
        got, expected = float(sequence.confidence[g]), math.exp(record.log_confidence[g])
        if steps is not None and math.isnan(expected):
            continue
        if math.isnan(got) != math.isnan(expected) or abs(got - expected) > 1e-4:
            return f"confidence of position {g}: decode {got}, the oracle {expected}"
    if steps is not None:
        return None
    if ids != record.ids:
        return f"ids of uncommitted positions differ: decode {ids}, the oracle {record.ids}"
    if trace is not None and len(trace) != record.forwards:
        return f"the trace has {len(trace)} steps, the oracle made {record.forwards}"
    for name, got, expected in [
        ("forwards", sequence.forwards, record.forwards),
        ("rows_computed", sequence.rows_computed, record.rows_computed),
        ("refreshes", sequence.refreshes, len(record.refresh_steps)),
        ("stop_reason", sequence.stop_reason, record.stop_reason),
    ]:
        if got != expected:
            return f"{name}: decode {got!r}, the oracle {expected!r} (rows per step {record.rows})"
    return None


def assert_equals_oracle(
    pair: Pair,
    prompts: list[torch.Tensor],
    settings: Settings,
    cache: Any,
    seeds: list[int] | None = None,
    regions: list[list[int]] | None = None,
    **decode_options: Any,
) -> list[Record | None]:
    """Decodes all prompts in one call, and each alone by the oracle.

    ``regions``: what stands behind each prompt, masks where text is wanted.

    Returns the oracle's records; None stands for a sequence with a decision too close to call,
    which was compared up to there (not at all with an early stop: it overwrites what was committed
    before, at steps that may differ).
    """
    seeds = seeds if seeds is not None else [settings.seed + i for i in range(len(prompts))]
    arguments = {**decode_arguments(settings), **decode_options}
    if regions is None:
        given = {"prompts": prompts}
    else:
        parts = zip(prompts, regions, strict=True)
        given = {"canvas": [torch.cat((prompt, torch.tensor(r))) for prompt, r in parts]}
    out = dlmcache_cuda.decode(pair.model, cache=cache, seed=seeds, **given, **arguments)
    assert len(out.sequences) == len(prompts)
    records: list[Record | None] = []
    for i, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
        own = dataclasses.replace(settings, seed=seed)
        if regions is not None:
            region = tuple(regions[i])
            own = dataclasses.replace(own, gen_length=len(region), region=region)
        record = oracle(pair, prompt, own, cache)
        steps = decided_steps(record, own)
        decided = steps == record.forwards
        if not decided and getattr(cache, "early_stop_steps", None) is not None:
            records.append(None)
            continue
        found = difference(out.sequences[i], record, pair, None if decided else steps)
        where = f"sequence {i}, cache {cache!r}, {own}, prompt {prompt.tolist()}"
        assert found is None, f"{where}: {found}"
        records.append(record if decided else None)
    return records
