"""Named sets of rows that answer whether the project's targets are met (docs/benchmarks.md)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from dlmcache_cuda.benchmark.fixed_rate import fixed_rate
from dlmcache_cuda.benchmark.matrix import Commit, rows_of
from dlmcache_cuda.benchmark.models import BUNDLED, ModelSpec
from dlmcache_cuda.benchmark.policies import BLOCK_LENGTH, PolicySetting, parse_policies
from dlmcache_cuda.benchmark.prompts import QUESTIONS, RANDOM
from dlmcache_cuda.benchmark.results import Result
from dlmcache_cuda.benchmark.row import Row, Workload
from dlmcache_cuda.benchmark.targets import (
    Target,
    batch_targets,
    best_cache_target,
    memory_targets,
    speed_up_targets,
    stock_targets,
)

LARGE = "random:12x512"
SMALL = "random:4x256"
ONE = Commit(1, None)
SEED = 77  # of the held-out questions, as in benchmarks.quality


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured: the default of every field is what the committed results have.

    Attributes:
        questions: of the bundled model, target 1.
        vanilla_steps: forwards of vanilla and stock that are measured on random weights; None: all.
        small: tiny models and lengths, to try a suite out; its results answer no target.
    """

    questions: int = 500
    vanilla_steps: int | None = None
    small: bool = False


@dataclass(frozen=True, slots=True)
class Suite:
    """Rows, and what they are held to.

    Attributes:
        name: for ``--suite``.
        title: for the page.
        rows: what is measured.
        targets: from the results to what was asked for.
        timed: False: only memory is measured.
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    targets: Callable[[Sequence[Result]], list[Target]]
    timed: bool = True


def quality(size: Size) -> Suite:
    """Target 1: threshold commits on held-out questions, and the frontier of every policy."""
    count = min(size.questions, 2) if size.small else size.questions
    workload = Workload(BUNDLED, f"{QUESTIONS}:heldout", count, 1, 96, seed=SEED)
    spec = ModelSpec(BUNDLED)
    settings = parse_policies(["all"], spec, workload.gen_length) + _least_work()
    rows = rows_of(workload, ONE, [])
    # An order of its own compares no confidences: several tokens per step stand for a threshold.
    ordered = [setting for setting in settings if setting.cache == "dkv-greedy"]
    for tokens in (1, 2, 4):
        rows += rows_of(workload, Commit(tokens, None), ordered)
    for threshold in (0.9,) if size.small else (0.7, 0.8, 0.9):
        rows += rows_of(workload, Commit(None, threshold), settings)
        rows.append(Row(workload, "none", {}, None, None, threshold))
    return Suite(
        "quality",
        "Target 1: answers and speed with threshold commits, bundled model",
        _once(rows),
        lambda results: [best_cache_target(results, speed_up=8, loss=0.01)],
    )


def _least_work() -> list[PolicySetting]:
    """Settings of least work that lose less than a point one token per step, as benchmarks.quality
    found them on other questions (``benchmarks/results/quality.md``)."""
    found = (
        ("composed", {"gamma": 0.5, "window_length": 4}, None),
        ("dkv-decode", {"cache_reloading_step": 32}, BLOCK_LENGTH),
        ("dkv-pd", {"cache_reloading_step": 96}, None),
        (
            "dllm",
            {"prompt_interval_steps": 96, "gen_interval_steps": 4, "transfer_ratio": 0.125},
            BLOCK_LENGTH,
        ),
        ("dual", {}, 16),
        ("elastic", {"gamma": 0.5, "window_length": 8}, None),
        ("prefix", {}, 16),
    )
    return [PolicySetting(*entry) for entry in found]


# What each paper reports, by methods.md; policies without an entry have it as their defaults.
PUBLISHED = {
    "dual": ("blocks of 32 (Fast-dLLM)", {}),
    "elastic": (
        "window 16; 5.6 % of the layers recomputed, Elastic-Cache's own rate at one token per "
        "step: all of them every 18 steps",
        fixed_rate("elastic"),
    ),
    "spa": ("canvas every 50 steps, generated region every 7, at most 25 % of the rows "
            "(SPA-Cache, GSM8K)", {}),
    "dkv-decode": ("canvas every 8 steps of a block (dKV-Cache-Decode)", {}),
    "dkv-greedy": ("canvas every 2 steps of a block, window 4 (dKV-Cache-Greedy)", {}),
}  # fmt: skip


def speed(size: Size) -> Suite:
    """Target 2: one token per step on random weights."""
    model = "random:2x64:vocab=256" if size.small else LARGE
    shapes = ((24, 32), (16, 64)) if size.small else ((768, 256), (512, 512))
    wanted = {
        shapes[0]: {"dual": 10, "elastic": 6, "spa": 5, "dkv-decode": 3, "dkv-greedy": 6},
        shapes[1]: {"elastic": 12, "dual": 12},
    }
    rows: list[Row] = []
    for prompt, length in shapes:
        workload = Workload(model, RANDOM, 1, 1, length, prompt, early_stop=False)
        settings = [
            PolicySetting(cache, PUBLISHED[cache][1], None if cache == "elastic" else BLOCK_LENGTH)
            for cache in wanted[prompt, length]
        ]
        if "dkv-greedy" in wanted[prompt, length]:
            # At its own rate half of all steps compute everything; this is the other variant's.
            slower = {"cache_reloading_step": 8}
            settings.append(PolicySetting("dkv-greedy", slower, BLOCK_LENGTH))
        rows += rows_of(workload, ONE, settings, vanilla_steps=size.vanilla_steps)
    by_length = {length: caches for (_, length), caches in wanted.items()}
    return Suite(
        "speed",
        "Target 2: one token per step, random weights, early stop off for both",
        _once(rows),
        lambda results: speed_up_targets(
            results, by_length, {name: said for name, (said, _) in PUBLISHED.items()}
        ),
    )


def batch(size: Size) -> Suite:
    """Target 3: ragged batches of 16 against one sequence at a time."""
    rows: list[Row] = []
    bundled = Workload(BUNDLED, QUESTIONS, 3 if size.small else 64, 1, 96, seed=SEED)
    model = "random:2x64:vocab=256" if size.small else SMALL
    drawn = Workload(
        model, RANDOM, 3 if size.small else 16, 1, 32 if size.small else 64,
        32 if size.small else 256, ragged=True, early_stop=False,
    )  # fmt: skip
    for workload in (bundled, drawn):
        spec = ModelSpec.parse(workload.model)
        for size_of_batch in (1, 3 if size.small else 16):
            mine = replace(workload, batch_size=size_of_batch)
            settings = parse_policies(["all"], spec, workload.gen_length)
            rows += rows_of(mine, ONE, settings)
            if spec.is_bundled:
                rows += rows_of(mine, Commit(None, 0.9), settings)
    return Suite(
        "batch", "Target 3: ragged batches of 16 against batch 1", _once(rows), batch_targets
    )


def memory(size: Size) -> Suite:
    """Target 4: peak memory against the prediction."""
    model = "random:2x64:vocab=256" if size.small else LARGE
    prompt, length = (24, 32) if size.small else (768, 256)
    rows: list[Row] = []
    for sequences in (1, 4):
        workload = Workload(model, RANDOM, sequences, sequences, length, prompt, early_stop=False)
        settings = parse_policies(["all"], ModelSpec.parse(model), length)
        rows += rows_of(workload, ONE, settings)
    return Suite(
        "memory",
        "Target 4: peak memory against weights and caches as predicted",
        _once(rows),
        lambda results: memory_targets(results, slack=0.1),
        timed=False,
    )


def stock(size: Size) -> Suite:
    """Target 5: vanilla against stock transformers."""
    rows: list[Row] = []
    models = ("random:2x64:vocab=256",) if size.small else (SMALL, LARGE)
    for sequences in (1, 2 if size.small else 8):
        bundled = Workload(
            BUNDLED,
            QUESTIONS,
            sequences,
            sequences,
            32 if size.small else 96,
            early_stop=False,
            seed=SEED,
        )
        drawn = [
            Workload(m, RANDOM, sequences, sequences, 32, 32 if size.small else 224,
                     early_stop=False)
            for m in models
        ]  # fmt: skip
        for workload in (bundled, *drawn):
            steps = None if workload.model == BUNDLED else size.vanilla_steps
            rows += rows_of(workload, ONE, [], stock=True, vanilla_steps=steps)
    return Suite(
        "stock", "Target 5: vanilla against stock transformers", _once(rows), stock_targets
    )


SUITES: dict[str, Callable[[Size], Suite]] = {
    "quality": quality,
    "speed": speed,
    "batch": batch,
    "memory": memory,
    "stock": stock,
}


def _once(rows: Sequence[Row]) -> tuple[Row, ...]:
    """Every row once, in the order of the first."""
    return tuple({row.key: row for row in rows}.values())
