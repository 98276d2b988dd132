"""Measures rows in turn, remembers every repetition, and goes on where it was interrupted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from dlmcache_cuda.benchmark.measure import (
    Measured,
    check_row,
    drift_decides,
    find_drifted,
    measure,
)
from dlmcache_cuda.benchmark.models import ModelSpec
from dlmcache_cuda.benchmark.peak import peak_of, predicted_bytes
from dlmcache_cuda.benchmark.prompts import Prompts, make_prompts
from dlmcache_cuda.benchmark.row import STOCK, Row, Workload
from dlmcache_cuda.benchmark.stock import load_stock, measure_stock
from dlmcache_cuda.benchmark.store import Store
from dlmcache_cuda.parallel import Ranks, shard

TIME, MEMORY, DRIFT = "time", "memory", "drift"
WARM_UP_FORWARDS = 8


class Reporter(Protocol):
    """Is told how far a run is; see ``progress.RichReporter``."""

    def row(self, text: str) -> AbstractContextManager[Callable[[], None]]: ...
    def done(self) -> None: ...


class Silent:
    """Tells nobody."""

    def row(self, text: str) -> AbstractContextManager[Callable[[], None]]:
        return nullcontext(lambda: None)

    def done(self) -> None:
        pass


class Subject:
    """A model in both forms: ours, and stock transformers where rows ask for it.

    Raises:
        ValueError: a stock baseline was asked for of a model that has none.
    """

    def __init__(
        self, spec: ModelSpec, out: Path, device: str | None, dtype: str | None, with_stock: bool
    ) -> None:
        self.spec = spec
        self.model = spec.load(out, device, dtype)
        self.stock = load_stock(self.model, self.model.path) if with_stock else None

    def weight_bytes(self, row: Row) -> int:
        """Of the form that the row measures."""
        if row.engine == STOCK:
            return sum(parameter.nbytes for parameter in self.stock.parameters())
        return self.model.weight_bytes

    def measure(
        self,
        row: Row,
        prompts: Prompts,
        *,
        drifted: set[int] | frozenset[int] = frozenset(),
        limit: int | None = None,
        advance: Callable[[], None] = lambda: None,
    ) -> Measured:
        """One repetition."""
        if row.engine == STOCK:
            return measure_stock(self.stock, self.model, row, prompts, limit=limit, advance=advance)
        return measure(self.model, row, prompts, drifted=drifted, limit=limit, advance=advance)


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How rows are measured.

    Attributes:
        repeats: repetitions of every row.
        out: folder of the models with random weights.
        device, dtype: of the models; None: as ``dlmcache_cuda.load`` chooses.
        memory: also measure the peak of every row.
        time: measure times; False: memory alone.
        ranks: the processes that share the rounds, and which of them this is. Every row is measured
            by every process, so that ratios of rows compare what one device did.
    """

    repeats: int
    out: Path
    device: str | None = None
    dtype: str | None = None
    memory: bool = True
    time: bool = True
    ranks: Ranks = Ranks()


class Runner:
    """Measures rows.

    Args:
        rows: what is measured, in the order of the round.
        options: how.
        store: what has been measured before is not measured again.
        reporter: is told of the progress.

    Raises:
        TypeError, ValueError: a model does not allow the settings of a row; found before the first
            measurement.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        options: RunOptions,
        store: Store,
        reporter: Reporter | None = None,
    ) -> None:
        self.rows = rows
        self.options = options
        self.store = store
        self.reporter = reporter or Silent()
        self._subjects: dict[str, Subject] = {}
        self._prompts: dict[Workload, Prompts] = {}
        self._warm: set[str] = set()
        for row in rows:
            if row.engine != STOCK:
                check_row(self.subject(row).model, row)
                self.prompts(row)
            else:
                self.subject(row)

    @property
    def left(self) -> int:
        """Measurements that have not been made yet."""
        return len(self._pending())

    def run(self) -> None:
        """Measures what is left. A row that fails is recorded as failed, once per run."""
        for kind, row, number in self._pending():
            with self.reporter.row(f"{row}, {_what(kind, number)}") as advance:
                content = self._memory(row) if kind == MEMORY else self._time(row, advance)
            self.store.add(kind, row.key, number, content)
            self.reporter.done()

    def subject(self, row: Row) -> Subject:
        name = row.workload.model
        if name not in self._subjects:
            with_stock = any(r.engine == STOCK and r.workload.model == name for r in self.rows)
            spec, options = ModelSpec.parse(name), self.options
            self._subjects[name] = Subject(
                spec, options.out, options.device, options.dtype, with_stock
            )
        return self._subjects[name]

    def prompts(self, row: Row) -> Prompts:
        if row.workload not in self._prompts:
            self._prompts[row.workload] = make_prompts(self.subject(row).model, row.workload)
        return self._prompts[row.workload]

    def _pending(self) -> list[tuple[str, Row, int]]:
        """Round by round, so that a disturbance of the machine meets all rows alike."""
        found: list[tuple[str, Row, int]] = []
        ranks = self.options.ranks
        if self.options.memory:
            found += [(MEMORY, row, 0) for row in shard(self.rows, ranks)]
        if self.options.time:
            rounds = shard(range(self.options.repeats), ranks)
            found += [(TIME, row, number) for number in rounds for row in self.rows]
        return [task for task in found if not self._has(*task)]

    def _has(self, kind: str, row: Row, number: int) -> bool:
        record = self.store.get(kind, row.key, number)
        return record is not None and "failed" not in record

    def _time(self, row: Row, advance: Callable[[], None]) -> dict[str, Any]:
        subject, prompts = self.subject(row), self.prompts(row)
        try:
            drifted = self._warm_up(row, advance)
            found = subject.measure(row, prompts, drifted=drifted, limit=row.limit, advance=advance)
        except (MemoryError, RuntimeError, FloatingPointError) as error:
            return {"failed": f"{type(error).__name__}: {error}"}
        return found.record(prompts)

    def _warm_up(self, row: Row, advance: Callable[[], None]) -> set[int]:
        """A few forwards before the first repetition, or all where drift is to be found out."""
        subject, prompts = self.subject(row), self.prompts(row)
        by_drift = row.engine != STOCK and drift_decides(row)
        if row.key not in self._warm:
            subject.measure(row, prompts, limit=WARM_UP_FORWARDS, advance=advance)
            self._warm.add(row.key)
        if not by_drift:
            return set()
        known = self.store.get(DRIFT, row.key)
        if known is None:
            drifted = sorted(find_drifted(subject.model, row, prompts, advance))
            known = {"drifted": drifted}
            self.store.add(DRIFT, row.key, 0, known)
        return set(known["drifted"])

    def _memory(self, row: Row) -> dict[str, Any]:
        model = self.subject(row).model
        if model.device.type != "cuda":
            return peak_of(row, self.options.out, self.options.dtype)
        # On a GPU every repetition measures its peak with torch's allocator.
        lengths = [ids.numel() for ids in self.prompts(row).ids]
        return {"peak_bytes": None, "predicted_bytes": predicted_bytes(model, row, lengths)}


def _what(kind: str, number: int) -> str:
    return "memory" if kind == MEMORY else f"round {number + 1}"
