"""What was asked for, what was measured, and whether the one meets the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from dlmcache_cuda.benchmark.results import Result
from dlmcache_cuda.benchmark.row import STOCK
from dlmcache_cuda.benchmark.tables import number, spread
from dlmcache_cuda.decoding.memory import readable


@dataclass(frozen=True, slots=True)
class Target:
    """One line of the verdict.

    Attributes:
        what: the case.
        wanted: what was asked for.
        measured: what came out.
        met: None: not measured.
        note: why, or what the figure rests on.
    """

    what: str
    wanted: str
    measured: str
    met: bool | None
    note: str = ""


def verdict(targets: Sequence[Target]) -> str:
    """Markdown."""
    answers = {True: "yes", False: "**no**", None: "not measured"}
    lines = ["| case | target | measured | met | note |", "|---|---|---|---|---|"]
    for target in targets:
        cells = target.what, target.wanted, target.measured, answers[target.met], target.note
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def best_cache_target(results: Sequence[Result], speed_up: float, loss: float) -> Target:
    """A cache with threshold commits that is so much faster than vanilla with one token per step,
    and loses less than ``loss`` of the answers: the fastest one of those that lose no more."""
    wanted = f"{speed_up:g}x vanilla, less than {100 * loss:g} point of answers lost, one policy"
    what = "a cache with threshold commits"
    vanilla = [r for r in results if r.timed and r.row.is_vanilla and r.row.commits == 1]
    caches = [
        r
        for r in results
        if r.speed_up is not None and r.row.cache != "none" and r.row.threshold is not None
    ]
    if not vanilla or not caches:
        return Target(what, wanted, "", None)
    best = max(r.accuracy for r in vanilla)
    faithful = [r for r in caches if best - r.accuracy < loss]
    if not faithful:
        return Target(what, wanted, "every policy loses more", False)
    fastest = max(faithful, key=lambda r: r.speed_up.median)
    met = fastest.speed_up.median >= speed_up
    return Target(
        what,
        wanted,
        f"{spread(fastest.speed_up, 'x')}, {100 * fastest.accuracy:.1f} % right "
        f"(vanilla: {100 * best:.1f} %)",
        met,
        f"{fastest.row}",
    )


def speed_up_targets(
    results: Sequence[Result],
    wanted: Mapping[int, Mapping[str, float]],
    published: Mapping[str, str],
) -> list[Target]:
    """Speed-ups by generation length and policy; the note has the arithmetic of the rows.

    Args:
        wanted: generation length, then policy: the factor over vanilla.
        published: by policy, the refresh rate that its paper reports.
    """
    found = []
    seen: set[tuple[int, str]] = set()
    for result in results:
        row = result.row
        factor = wanted.get(row.workload.gen_length, {}).get(row.cache)
        if factor is None:
            continue
        case = row.workload.gen_length, row.cache
        what = (
            f"`{row.name}`, prompt {row.workload.prompt_length}, "
            f"{row.workload.gen_length} generated"
        )
        target = Target(what, f"{factor:g}x", "", None)
        if result.speed_up is not None:
            median = result.speed_up.median
            target = replace(
                target, measured=spread(result.speed_up, "x"), met=median >= factor,
                note=_arithmetic(result, factor),
            )  # fmt: skip
        note = published.get(row.cache, "") if case not in seen else "a slower rate, to compare"
        seen.add(case)
        found.append(replace(target, note=". ".join(filter(None, (note, target.note)))))
    return found


def _arithmetic(result: Result, factor: float) -> str:
    """What computed rows alone would allow."""
    if result.row_ceiling is None:
        return ""
    text = (
        f"rows: {100 * result.rows:.2f} % of vanilla's, so {result.row_ceiling:.1f}x by rows alone"
    )
    if result.row_ceiling < factor:
        text += f": {factor:g}x is out of reach at this rate"
    return text


def batch_targets(results: Sequence[Result]) -> list[Target]:
    """Every row of a batch against the same row with one sequence at a time."""
    alone = {
        (r.row.workload.model, r.row.name, r.row.block, r.row.commit): r
        for r in results
        if r.row.workload.batch_size == 1
    }
    found = []
    for result in results:
        row = result.row
        one = alone.get((row.workload.model, row.name, row.block, row.commit))
        if row.workload.batch_size == 1 or one is None:
            continue
        what = f"{row.workload.model}: `{row.name}`, {row.commit}, batch {row.workload.batch_size}"
        wanted = "throughput of batch 1, same tokens"
        if not result.timed or not one.timed:
            found.append(Target(what, wanted, "", None))
            continue
        gain = result.tokens_per_second.median / one.tokens_per_second.median
        same = result.digests == one.digests and bool(result.digests)
        tokens = "same tokens" if same else "other tokens"
        found.append(Target(what, wanted, f"{number(gain)}x, {tokens}", gain >= 1 and same))
    return found


def memory_targets(results: Sequence[Result], slack: float) -> list[Target]:
    """Peaks against predictions."""
    found = []
    for result in results:
        row = result.row
        if result.predicted_bytes is None:
            continue
        what = f"`{row.name}`, batch {row.workload.batch_size}"
        wanted = f"at most {readable(result.predicted_bytes)} + {100 * slack:g} %"
        if result.peak_bytes is None:
            found.append(Target(what, wanted, "", None, result.failed or ""))
            continue
        share = result.peak_bytes / result.predicted_bytes
        measured = f"{readable(result.peak_bytes)}, {100 * share:.0f} % of it"
        found.append(Target(what, wanted, measured, share <= 1 + slack))
    return found


def stock_targets(results: Sequence[Result]) -> list[Target]:
    """Vanilla against stock transformers on the same workload."""
    found = []
    for result in results:
        row = result.row
        if row.engine != STOCK:
            continue
        what = f"{row.workload.model}, batch {row.workload.batch_size}"
        wanted = "vanilla no slower than stock"
        if result.same_commits is None:
            found.append(Target(what, wanted, "", None, result.failed or ""))
            continue
        slower = result.same_commits  # stock over vanilla
        gain = replace(slower, median=1 / slower.median, low=1 / slower.high, high=1 / slower.low)
        tokens = {True: "same tokens", False: "other tokens", None: "tokens not compared"}
        note = tokens[result.same_tokens]
        met = gain.median >= 1 and result.same_tokens is not False
        found.append(Target(what, wanted, spread(gain, "x"), met, note))
    return found
