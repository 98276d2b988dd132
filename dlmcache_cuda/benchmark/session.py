"""One call of ``dlmcache bench``: from rows to files."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from dlmcache_cuda.benchmark.figures import draw_all
from dlmcache_cuda.benchmark.machine import describe, fingerprint
from dlmcache_cuda.benchmark.matrix import Matrix
from dlmcache_cuda.benchmark.profile import profile_row, profile_table
from dlmcache_cuda.benchmark.progress import RichReporter
from dlmcache_cuda.benchmark.results import Result, results_of
from dlmcache_cuda.benchmark.row import STOCK, Row
from dlmcache_cuda.benchmark.runner import Runner, RunOptions
from dlmcache_cuda.benchmark.store import Store
from dlmcache_cuda.benchmark.suites import SUITES, Size
from dlmcache_cuda.benchmark.tables import header, report
from dlmcache_cuda.benchmark.targets import Target, verdict
from dlmcache_cuda.model.loading import choose_device
from dlmcache_cuda.parallel import ProcessGroup, Ranks

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured, and what it is held to.

    Attributes:
        name: of the folder below ``out``.
        title: of the page.
        rows: in the order of a round.
        targets: None: nothing is asked for.
        timed: False: memory alone.
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    targets: Callable[[Sequence[Result]], list[Target]] | None = None
    timed: bool = True


@dataclass(frozen=True, slots=True)
class Page:
    """What was written: as Markdown, as the content of the JSON file, and where."""

    markdown: str
    content: dict[str, Any]
    folder: Path


def custom_plan(matrix: Matrix) -> Plan:
    """
    Raises:
        ValueError: something cannot be combined.
    """
    return Plan("custom", "Benchmark", tuple(matrix.rows()))


def suite_plan(name: str, size: Size) -> Plan:
    """A suite by its name."""
    suite = SUITES[name](size)
    title = f"{suite.title}{', in tiny sizes' if size.small else ''}"
    return Plan(
        f"{name}-small" if size.small else name, title, suite.rows, suite.targets, suite.timed
    )


class Session:
    """Measures plans on one device, and writes what comes out.

    Args:
        out: folder of all results; each plan has one of its own there.
        repeats: rounds.
        device, dtype: as for ``dlmcache_cuda.load``.
        memory: measure the peak of every row.
        fresh: forget what was measured before.
        command: how this was called, for the header.
        group: processes of this machine that share the rounds, each on its device; they write into
            one file, and the first makes the pages. Default: this process alone.
    """

    def __init__(
        self,
        *,
        out: Path,
        repeats: int,
        device: str | None,
        dtype: str | None,
        memory: bool,
        fresh: bool,
        command: str,
        group: ProcessGroup | None = None,
    ) -> None:
        self.out = out
        self.group = group or ProcessGroup(Ranks())
        self.repeats = repeats
        if device is not None:
            choose_device(device)
        self.device, self.dtype = device, dtype
        self.memory = memory
        self.fresh = fresh
        self.command = command

    def measure(self, plan: Plan) -> Page | None:
        """Measures what has not been measured yet, and writes ``results.json``, ``results.md`` and
        figures. They are written too when the run is interrupted. None but on the first process."""
        folder = self.out / plan.name
        runner = self._runner(plan, folder)
        store, device = runner.store, str(self._device(runner))
        if store.others:
            print_note(f"{store.others} lines of {store.path} are of other sources, threads or "
                       "devices and are not used")  # fmt: skip
        machine = self._machine(runner, device)
        try:
            if self.group.ranks.is_main:
                with RichReporter(runner.left) as reporter:
                    runner.reporter = reporter
                    runner.run()
            else:
                runner.run()
            self.group.barrier()
        except KeyboardInterrupt:
            self._write(plan, folder, store, machine)
            print_note(f"interrupted; the same command goes on with what is left ({runner.left} "
                       f"measurements). So far: {folder / 'results.md'}")  # fmt: skip
            raise
        if not self.group.ranks.is_main:
            return None
        if self.group.ranks.world_size > 1:
            store = Store(store.path, store.fingerprint)  # with what the others measured
            machine["processes"] = self.group.ranks.world_size
        return self._write(plan, folder, store, machine)

    def profile(self, plan: Plan) -> Page:
        """Profiles our rows of a plan, and writes ``profile.json`` and ``profile.md``.

        Raises:
            ValueError: there are several processes.
        """
        if self.group.ranks.world_size > 1:
            raise ValueError("--profile looks at one process: start it without a launcher")
        folder = self.out / plan.name
        rows = tuple(row for row in plan.rows if row.engine != STOCK)
        plan = Plan(plan.name, plan.title, rows)
        runner = self._runner(plan, folder)
        machine = self._machine(runner, str(self._device(runner)))
        profiles = []
        with RichReporter(len(rows)) as reporter:
            for row in rows:
                with reporter.row(f"{row}, profile"):
                    model, prompts = runner.subject(row).model, runner.prompts(row)
                    profiles.append(profile_row(model, row, prompts))
                reporter.done()
        text = f"## {plan.title}: profile\n\n{header(machine)}\n\n{profile_table(profiles)}\n"
        content = {"schema": SCHEMA, "machine": machine,
                   "profiles": [profile.to_dict() for profile in profiles]}  # fmt: skip
        _write_file(folder / "profile.json", json.dumps(content, indent=1) + "\n")
        _write_file(folder / "profile.md", text)
        return Page(text, content, folder)

    def _runner(self, plan: Plan, folder: Path) -> Runner:
        path = folder / "repetitions.jsonl"
        if not self.group.ranks.is_main:
            self.group.barrier()  # the first clears the file, and makes models of random weights
        elif self.fresh:
            path.unlink(missing_ok=True)
        device = self.device or ("cuda" if _has_cuda() else "cpu")
        store = Store(path, f"{fingerprint(device)} {self.dtype or 'default'}")
        options = RunOptions(
            repeats=self.repeats,
            out=self.out,
            device=self.device,
            dtype=self.dtype,
            memory=self.memory or not plan.timed,
            time=plan.timed,
            ranks=self.group.ranks,
        )
        runner = Runner(plan.rows, options, store)
        if self.group.ranks.is_main:
            self.group.barrier()
        return runner

    def _device(self, runner: Runner) -> torch.device:
        return runner.subject(runner.rows[0]).model.device

    def _machine(self, runner: Runner, device: str) -> dict[str, Any]:
        dtype = str(runner.subject(runner.rows[0]).model.dtype).removeprefix("torch.")
        return describe(device) | {"dtype": dtype, "command": self.command}

    def _write(self, plan: Plan, folder: Path, store: Store, machine: dict[str, Any]) -> Page:
        results = results_of(plan.rows, store)
        targets = [] if plan.targets is None else plan.targets(results)
        parts = [f"### Targets\n\n{verdict(targets)}"] if targets else []
        figures: list[Path] = []
        try:
            figures = draw_all(results, folder)
        except RuntimeError as error:
            print_note(f"no figures: {error}")
        text = report(plan.title, machine, results, parts)
        content = {
            "schema": SCHEMA,
            "machine": machine,
            "title": plan.title,
            "targets": [asdict(target) for target in targets],
            "results": [result.to_dict() for result in results],
            "figures": [path.name for path in figures],
        }
        _write_file(folder / "results.json", json.dumps(content, indent=1) + "\n")
        _write_file(folder / "results.md", text)
        return Page(text, content, folder)


def print_note(text: str) -> None:
    """Beside the results, which go to standard output."""
    print(f"bench: {text}", file=sys.stderr)


def _has_cuda() -> bool:
    from dlmcache_cuda import build_info

    return bool(build_info()["cuda"]) and torch.cuda.is_available()


def _write_file(path: Path, text: str) -> None:
    """Renamed into place: an interrupted run leaves no half of a file. Of runs that write it
    together each has its own until then."""
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)
