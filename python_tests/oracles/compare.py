"""Runs ``decode`` and the oracles on the same prompts and reports where they part."""

from __future__ import annotations

import dataclasses
import functools
import math
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

import dlmcache_cuda

from .checkpoint import MASK, write_checkpoint
from .fast_dllm import decode_fast_dllm
from .model import PlainLlada
from .sequence import Record, Settings, TokenIds
from .vanilla import decode_vanilla

# The models' fp32 logits are off by up to 7e-6; guidance subtracts two of them.
MARGIN = 2e-5


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


def decode_arguments(settings: Settings) -> dict[str, Any]:
    """What ``decode`` gets, except for the seeds, which are one per prompt."""
    arguments = dataclasses.asdict(settings)
    del arguments["seed"]
    return arguments


def oracle(pair: Pair, prompt: torch.Tensor, settings: Settings, cache: str) -> Record:
    prompt_ids = prompt.tolist()
    if cache == "none":
        return decode_vanilla(pair.plain, prompt_ids, settings, pair.ids)
    return decode_fast_dllm(pair.plain, prompt_ids, settings, pair.ids, cache)


def decidable(record: Record, settings: Settings) -> bool:
    """Whether no decision was so close that rounding of fp32 may turn it."""
    return record.margin > MARGIN * (1 + 2 * settings.cfg_scale)


def commits(commit_step: list[int], ids: list[int], step: int) -> dict[int, int]:
    """Position in the generation region -> token, for one step."""
    return {g: ids[g] for g, s in enumerate(commit_step) if s == step}


def difference(sequence: Any, record: Record, pair: Pair) -> str | None:
    """The first thing in which a decoded sequence differs from its record; None when equal."""
    ids, steps = sequence.ids.tolist(), sequence.commit_step.tolist()
    for step in range(max([*steps, *record.commit_step], default=-1) + 1):
        got, expected = commits(steps, ids, step), commits(record.commit_step, record.ids, step)
        if got != expected:
            return (
                f"step {step} differs: decode commits {got}, the oracle {expected} "
                f"(position: token; smallest margin of the oracle {record.margin:.2g})"
            )
    if ids != record.ids:
        return f"ids of uncommitted positions differ: decode {ids}, the oracle {record.ids}"
    for g, log_confidence in enumerate(record.log_confidence):
        got, expected = float(sequence.confidence[g]), math.exp(log_confidence)
        if math.isnan(got) != math.isnan(expected) or abs(got - expected) > 1e-4:
            return f"confidence of position {g}: decode {got}, the oracle {expected}"
    rows = sum(record.rows) * pair.plain.config.n_layers
    for name, got, expected in [
        ("forwards", sequence.forwards, record.forwards),
        ("rows_computed", sequence.rows_computed, rows),
        ("stop_reason", sequence.stop_reason, record.stop_reason),
    ]:
        if got != expected:
            return f"{name}: decode {got!r}, the oracle {expected!r} (rows per step {record.rows})"
    return None


def assert_equals_oracle(
    pair: Pair,
    prompts: list[torch.Tensor],
    settings: Settings,
    cache: str,
    seeds: list[int] | None = None,
    **decode_options: Any,
) -> list[Record | None]:
    """Decodes all prompts in one call, and each alone by the oracle.

    Returns the oracle's records; None stands for a sequence with a decision too close to call.
    """
    seeds = seeds if seeds is not None else [settings.seed + i for i in range(len(prompts))]
    out = dlmcache_cuda.decode(
        pair.model, prompts, cache=cache, seed=seeds, **decode_arguments(settings), **decode_options
    )
    assert len(out.sequences) == len(prompts)
    records: list[Record | None] = []
    for i, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True)):
        own = dataclasses.replace(settings, seed=seed)
        record = oracle(pair, prompt, own, cache)
        if not decidable(record, own):
            records.append(None)
            continue
        found = difference(out.sequences[i], record, pair)
        where = f"sequence {i}, cache {cache!r}, {own}, prompt {prompt.tolist()}"
        assert found is None, f"{where}: {found}"
        records.append(record)
    return records
