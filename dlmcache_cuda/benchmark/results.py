"""From repetitions to figures: medians with spread, and what they are compared with."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from dlmcache_cuda.benchmark.row import STOCK, Row
from dlmcache_cuda.benchmark.runner import MEMORY, TIME
from dlmcache_cuda.benchmark.store import Store
from dlmcache_cuda.policies import available_policies


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of several repetitions, and the smallest and largest of them."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(statistics.median(values), min(values), max(values))

    def to_dict(self) -> dict[str, float]:
        return {"median": self.median, "min": self.low, "max": self.high}


@dataclass(frozen=True, slots=True)
class Result:
    """One row of a table.

    Attributes:
        row: what was measured.
        repeats: how often.
        failed: why there are no figures.
        measured_forwards: None, or how many forwards the figures of the whole were calculated from.
        seconds, cpu_seconds: of the whole decoding.
        tokens_per_second: visible ones.
        forwards, sequence_forwards, visible_tokens: of the whole decoding.
        forward_seconds, forward_cpu_seconds: of one forward on average.
        cached_seconds, refresh_seconds: of a forward that reuses the cache, and of one that
            recomputes it; None where there was none.
        refresh_share: of the time of all forwards.
        forward_rows: rows computed, relative to vanilla with as many forwards.
        rows: rows computed in all, relative to vanilla's with the same commits.
        speed_up: of visible tokens per second over vanilla with one token per step, in the same
            rounds; same_commits: over vanilla with the same commits.
        peak_bytes, predicted_bytes: of memory.
        right: answers, of ``row.workload.sequences``.
        digests: of the tokens of every sequence.
        same_tokens: as vanilla with the same commits and blocks; None where that is not known, or
            where the policy has an order of its own.
        phases: seconds by phase.
    """

    row: Row
    repeats: int
    failed: str | None = None
    measured_forwards: int | None = None
    seconds: Spread | None = None
    cpu_seconds: Spread | None = None
    tokens_per_second: Spread | None = None
    forwards: int = 0
    sequence_forwards: int = 0
    visible_tokens: int = 0
    forward_seconds: Spread | None = None
    forward_cpu_seconds: Spread | None = None
    cached_seconds: float | None = None
    refresh_seconds: float | None = None
    refresh_share: float | None = None
    forward_rows: float | None = None
    rows: float | None = None
    speed_up: Spread | None = None
    same_commits: Spread | None = None
    peak_bytes: int | None = None
    predicted_bytes: int | None = None
    right: int | None = None
    digests: tuple[str, ...] = ()
    same_tokens: bool | None = None
    phases: dict[str, float] | None = None

    @property
    def timed(self) -> bool:
        return self.seconds is not None

    @property
    def tokens_per_forward(self) -> float:
        return self.visible_tokens / self.sequence_forwards if self.sequence_forwards else 0.0

    @property
    def accuracy(self) -> float | None:
        return None if self.right is None else self.right / self.row.workload.sequences

    @property
    def row_ceiling(self) -> float | None:
        """The speed-up over vanilla with the same commits if time followed computed rows."""
        return 1 / self.rows if self.rows else None

    def to_dict(self) -> dict[str, Any]:
        content: dict[str, Any] = {"row": self.row.to_dict(), "name": str(self.row)}
        for name in self.__slots__:
            value = getattr(self, name)
            if name != "row":
                content[name] = value.to_dict() if isinstance(value, Spread) else value
        content["tokens_per_forward"] = self.tokens_per_forward
        content["accuracy"] = self.accuracy
        return content


def results_of(rows: Sequence[Row], store: Store) -> list[Result]:
    """One result per row, from what the store has; rows without a repetition have no figures."""
    found = {row.key: _whole(row, _records(row, store)) for row in rows}
    return [_result(row, rows, found, store) for row in rows]


def _records(row: Row, store: Store) -> list[dict[str, Any]]:
    numbers: Iterable[int] = range(10_000)
    records = []
    for number in numbers:
        record = store.get(TIME, row.key, number)
        if record is None:
            break
        records.append(record)
    return records


def _whole(row: Row, records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The repetitions, those of a limited row continued to all of its forwards."""
    good = [record for record in records if "failed" not in record]
    if row.limit is None:
        return good
    return [_continued(row, record) for record in good]


def all_forwards(row: Row) -> int:
    """Forwards of a row that makes all of its steps with fixed commits."""
    workload = row.workload
    return row.steps * -(-workload.sequences // workload.batch_size)


def _continued(row: Row, record: dict[str, Any]) -> dict[str, Any]:
    """All forwards of such a row cost the same: seconds and rows grow with their number."""
    factor = all_forwards(row) / record["forwards"]
    if factor <= 1:
        return record
    workload = row.workload
    scaled = ("seconds", "cpu_seconds", "rows_computed", "rows_vanilla", "step_seconds")
    continued = record | {name: record[name] * factor for name in scaled}
    continued["forwards"] = all_forwards(row)
    continued["measured_forwards"] = record["forwards"]
    continued["sequence_forwards"] = row.steps * workload.sequences
    continued["visible_tokens"] = workload.gen_length * workload.sequences
    return continued


def _result(
    row: Row, rows: Sequence[Row], found: dict[str, list[dict[str, Any]]], store: Store
) -> Result:
    memory = store.get(MEMORY, row.key) or {}
    records = found[row.key]
    peaks = [r["peak_bytes"] for r in records if r["peak_bytes"] is not None]
    peak = max(peaks) if peaks else memory.get("peak_bytes")
    known = {
        "row": row,
        "repeats": len(records),
        "peak_bytes": peak,
        "predicted_bytes": memory.get("predicted_bytes"),
    }
    if not records:
        failures = [r["failed"] for r in [*_records(row, store), memory] if "failed" in r]
        return Result(**known, failed=failures[0] if failures else None)
    last = records[-1]
    same = _baseline(row, rows, found, lambda v: _commits(v) == _commits(row))
    one = _baseline(row, rows, found, lambda v: v.commits == 1) or same
    ordered = available_policies()[row.cache].remasking is not None  # commits in an own order
    twin = next(
        (
            v
            for v in rows
            if v.is_vanilla and v.workload == row.workload and found[v.key] and not ordered
            and (_commits(v), v.block) == (_commits(row), row.block)
        ),
        None,
    )  # fmt: skip
    cached = last["forwards"] - last["refresh_forwards"]
    by_step = [(r["refresh_seconds"], r["step_seconds"] - r["refresh_seconds"]) for r in records]
    refreshes, rest = (statistics.median(column) for column in zip(*by_step, strict=True))
    return Result(
        **known,
        measured_forwards=last.get("measured_forwards"),
        seconds=Spread.of([r["seconds"] for r in records]),
        cpu_seconds=Spread.of([r["cpu_seconds"] for r in records]),
        tokens_per_second=Spread.of([_speed(r) for r in records]),
        forwards=last["forwards"],
        sequence_forwards=last["sequence_forwards"],
        visible_tokens=last["visible_tokens"],
        forward_seconds=Spread.of([r["seconds"] / r["forwards"] for r in records]),
        forward_cpu_seconds=Spread.of([r["cpu_seconds"] / r["forwards"] for r in records]),
        cached_seconds=rest / cached if cached else None,
        refresh_seconds=refreshes / last["refresh_forwards"] if last["refresh_forwards"] else None,
        refresh_share=refreshes / (refreshes + rest) if row.cache != "none" else None,
        forward_rows=last["rows_computed"] / last["rows_vanilla"],
        rows=None if same is None else last["rows_computed"] / found[same.key][-1]["rows_computed"],
        speed_up=_ratio(records, one, found),
        same_commits=_ratio(records, same, found),
        right=last["right"],
        digests=tuple(last["digests"]),
        same_tokens=_same_tokens(last, found[twin.key][-1]) if twin is not None else None,
        phases=last["phases"] or None,
    )


def _speed(record: dict[str, Any]) -> float:
    return record["visible_tokens"] / record["seconds"]


def _commits(row: Row) -> tuple[int | None, float | None]:
    return row.commits, row.threshold


def _baseline(
    row: Row,
    rows: Sequence[Row],
    found: dict[str, list[dict[str, Any]]],
    wanted: Callable[[Row], bool],
) -> Row | None:
    """The fastest vanilla of the workload that is wanted: a speed-up is never over a slow one."""
    candidates = [
        v
        for v in rows
        if v.is_vanilla and v.workload == row.workload and found[v.key] and wanted(v)
    ]
    return max(candidates, key=lambda v: statistics.median(map(_speed, found[v.key])), default=None)


def _ratio(
    records: list[dict[str, Any]], baseline: Row | None, found: dict[str, list[dict[str, Any]]]
) -> Spread | None:
    """Of speeds in the same rounds."""
    if baseline is None:
        return None
    others = {r["number"]: r for r in found[baseline.key]}
    ratios = [_speed(r) / _speed(others[r["number"]]) for r in records if r["number"] in others]
    return Spread.of(ratios) if ratios else None


def _same_tokens(record: dict[str, Any], other: dict[str, Any]) -> bool | None:
    if not record["digests"] or not other["digests"]:
        return None
    return record["digests"] == other["digests"]


def stock_rows(results: Sequence[Result]) -> list[Result]:
    """The baselines of stock transformers among the results."""
    return [result for result in results if result.row.engine == STOCK]
