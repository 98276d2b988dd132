"""Where the time of a row goes: by phase, and by operator and GEMM within its steps."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch

from dlmcache_cuda.benchmark.measure import find_drifted, make_decoder, measure
from dlmcache_cuda.benchmark.prompts import Prompts
from dlmcache_cuda.benchmark.row import Row
from dlmcache_cuda.decoding.arguments import check_seeds

FORWARDS = 40
WARM_UP_FORWARDS = 8
OPERATOR, GEMM, OTHER = "operator", "GEMM", "other torch"
# Outermost names of torch's matrix products and of its dense attention.
_GEMMS = (
    "aten::linear", "aten::mm", "aten::addmm", "aten::bmm", "aten::matmul", "aten::_scaled_mm",
    "aten::mkldnn_linear", "aten::scaled_dot_product_attention", "mkldnn::_linear_pointwise",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Share:
    """What one name takes of a kind of step.

    Attributes:
        name: of the operator.
        kind: ``operator`` (ours, with the GEMMs inside), ``GEMM`` (torch's) or ``other torch``.
        calls: per step.
        milliseconds: per step.
        share: of the step's wall time.
    """

    name: str
    kind: str
    calls: float
    milliseconds: float
    share: float


@dataclass(frozen=True, slots=True)
class StepProfile:
    """All steps of one kind.

    Attributes:
        kind: ``cached`` or ``refresh``.
        steps: how many were profiled.
        milliseconds: of a step, with the profiler's own work.
        operators: share of that time within our operators and GEMMs. The profiler's work stands
            mostly outside of them, so that their share of an ordinary step is larger.
        plain_milliseconds: median of a step without the profiler.
        operator_milliseconds: median of a step's operators and GEMMs under it.
        shares: by name, largest first.
    """

    kind: str
    steps: int
    milliseconds: float
    operators: float
    plain_milliseconds: float
    operator_milliseconds: float
    shares: tuple[Share, ...]

    @property
    def most_operators(self) -> float:
        """Their share of an ordinary step if the profiler had slowed down nothing of them."""
        return min(1.0, self.operator_milliseconds / self.plain_milliseconds)


@dataclass(frozen=True, slots=True)
class RowProfile:
    """Attributes:
    row: its name.
    phases: milliseconds per forward by phase, without the profiler.
    forward_milliseconds: of all of a forward, without the profiler.
    steps: cached ones and refreshes.
    """

    row: str
    phases: dict[str, float]
    forward_milliseconds: float
    steps: tuple[StepProfile, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def profile_row(model: Any, row: Row, prompts: Prompts, forwards: int = FORWARDS) -> RowProfile:
    """Decodes the beginning of a row's prompts twice: plain for the phases, and under
    torch.profiler for the operators.

    Args:
        forwards: of each of the two.
    """
    measure(model, row, prompts, limit=WARM_UP_FORWARDS)
    plain = measure(model, row, prompts, limit=forwards)
    drifted = find_drifted(model, row, prompts, limit=forwards)
    events, refreshed = _profiled(model, row, prompts, forwards)
    refreshed = [yes or n in drifted for n, yes in enumerate(refreshed)]
    steps = sorted((e for e in events if e.name == "step"), key=lambda e: e.time_range.start)
    kinds = (("cached", False), ("refresh", True))
    found = []
    for kind, wanted in kinds:
        chosen = [number for number, yes in enumerate(refreshed) if yes == wanted]
        seconds = [plain.step_seconds[number] for number in chosen]
        found.append(_steps(kind, [steps[number] for number in chosen], seconds, events))
    count = plain.forwards
    return RowProfile(
        str(row),
        {name: 1e3 * seconds / count for name, seconds in plain.phases.items()},
        1e3 * sum(plain.step_seconds) / count,
        tuple(step for step in found if step is not None),
    )


def _profiled(
    model: Any, row: Row, prompts: Prompts, forwards: int
) -> tuple[list[Any], list[bool]]:
    """The profiler's events, and which steps recomputed cached rows by schedule."""
    decoder = make_decoder(model, row, prompts)
    seeds = check_seeds(row.workload.seed, len(prompts.ids))
    waiting = iter(range(len(prompts.ids)))
    refreshed: list[bool] = []
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profiler:
        while len(refreshed) < forwards:
            while decoder.has_free_slot and (sequence := next(waiting, None)) is not None:
                decoder.add(sequence, prompts.ids[sequence], seeds[sequence])
            if decoder.idle:
                break
            before = {s.sequence: s.refreshes for s in decoder.slots if s is not None}
            ended = decoder.step()
            after = {s.sequence: s for s in decoder.slots if s is not None} | ended
            refreshed.append(any(after[n].refreshes > before[n] for n in before))
    return list(profiler.events()), refreshed


def _steps(
    kind: str, steps: Sequence[Any], plain_seconds: Sequence[float], events: Iterable[Any]
) -> StepProfile | None:
    if not steps:
        return None
    whole = sum(step.time_range.elapsed_us() for step in steps)
    spans = [(step.time_range.start, step.time_range.end, step.thread) for step in steps]
    times: dict[str, list[float]] = {}
    ours_of_step = [0.0] * len(steps)
    for event in _outermost(events):
        at, us = event.time_range.start, event.time_range.elapsed_us()
        for number, (begin, end, thread) in enumerate(spans):
            if begin <= at < end and event.thread == thread:
                entry = times.setdefault(event.name, [0, 0.0])
                entry[0] += 1
                entry[1] += us
                ours_of_step[number] += us if _kind(event.name) != OTHER else 0
    count = len(steps)
    shares = [
        Share(name, _kind(name), calls / count, us / count / 1e3, us / whole)
        for name, (calls, us) in times.items()
    ]
    shares.sort(key=lambda share: -share.share)
    ours = sum(share.share for share in shares if share.kind != OTHER)
    return StepProfile(
        kind, count, whole / count / 1e3, ours, 1e3 * median(plain_seconds),
        median(ours_of_step) / 1e3, tuple(shares),
    )  # fmt: skip


def _outermost(events: Iterable[Any]) -> Iterable[Any]:
    """Operators that stand in no other one."""
    for event in events:
        if not _is_operator(event.name):
            continue
        parent = event.cpu_parent
        while parent is not None and not _is_operator(parent.name):
            parent = parent.cpu_parent
        if parent is None:
            yield event


def _is_operator(name: str) -> bool:
    return "::" in name


def _kind(name: str) -> str:
    if name.startswith("dlmcache::"):
        return OPERATOR
    return GEMM if name in _GEMMS else OTHER


def profile_table(profiles: Sequence[RowProfile], names: int = 12) -> str:
    """Markdown: phases of all rows, then the operators of each."""
    phases = list(dict.fromkeys(name for profile in profiles for name in profile.phases))
    lines = [
        f"| method | ms/forward | {' | '.join(f'{name}, ms' for name in phases)} |",
        f"|{'---|' * (len(phases) + 2)}",
    ]
    for profile in profiles:
        cells = [f"{profile.phases.get(name, 0):.3f}" for name in phases]
        lines.append(
            f"| {profile.row} | {profile.forward_milliseconds:.3f} | {' | '.join(cells)} |"
        )
    texts = ["### Time by phase\n\n" + "\n".join(lines)]
    for profile in profiles:
        for step in profile.steps:
            lines = [
                f"### {profile.row}: {step.kind} steps\n",
                f"{step.steps} steps of {step.plain_milliseconds:.3f} ms, "
                f"{step.milliseconds:.3f} ms under the profiler, of which "
                f"{100 * step.operators:.1f} % in operators and GEMMs: without the profiler at "
                f"most {100 * step.most_operators:.1f} %.\n",
                "| operator | kind | calls/step | ms/step | share |",
                "|---|---|---|---|---|",
            ]
            lines += [
                f"| `{s.name}` | {s.kind} | {s.calls:.1f} | {s.milliseconds:.3f} "
                f"| {100 * s.share:.1f} % |"
                for s in step.shares[:names]
            ]
            texts.append("\n".join(lines))
    return "\n\n".join(texts)
