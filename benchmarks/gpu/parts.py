"""Runs one part: its cases one by one, those that are done already left out."""

from __future__ import annotations

import importlib
import json
import traceback
from collections.abc import Mapping
from typing import Any, Protocol

from benchmarks.gpu.context import Context
from benchmarks.gpu.header import header
from benchmarks.gpu.key import key
from benchmarks.gpu.options import Options
from benchmarks.gpu.results import FAILED, INCOMPLETE, PASSED, PartResults

EXIT_CODES = {PASSED: 0, FAILED: 1, INCOMPLETE: 3}


class Part(Protocol):
    """A module of this package.

    A case's result is what JSON can hold. ``failed`` in it says what was wrong, ``skipped`` why it
    was not measured. A line of the headline has ``what``, ``value``, ``unit`` and, where there is a
    floor, ``floor`` and ``ratio``.
    """

    def cases(self, options: Options) -> Mapping[str, Any]: ...
    def measure(self, context: Context, case: Any) -> dict[str, Any]: ...
    def table(self, cases: Mapping[str, dict[str, Any]]) -> str: ...
    def headline(self, cases: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]: ...


def run_part(name: str, options: Options) -> int:
    """Prints the part's table, writes ``<out>/<name>.json`` and returns the exit code."""
    part: Part = importlib.import_module(f"benchmarks.gpu.{name}")
    options.out.mkdir(parents=True, exist_ok=True)
    results = PartResults(
        options.out / f"{name}.json",
        name,
        f"{key(options.device)} {options.scope}",
        header(options.device),
    )
    cases = part.cases(options).items()
    pending = {case_name: case for case_name, case in cases if case_name not in results.cases}
    context = Context(options, list(pending.values()))
    for case_name, case in pending.items():
        if options.time_is_up:
            results.left.append(case_name)
            continue
        try:
            measured = part.measure(context, case)
        except Exception as error:  # the other cases still count
            traceback.print_exc()
            measured = {"failed": f"{type(error).__name__}: {error}"}
        results.add(case_name, measured)
        print(f"{name}: {case_name}: {json.dumps(measured)}", flush=True)
    measured = {case: result for case, result in results.cases.items() if _was_measured(result)}
    results.headline = part.headline(measured) if measured else []
    results.write()
    _report(part, results, measured)
    return EXIT_CODES[results.status]


def _was_measured(result: Mapping[str, Any]) -> bool:
    return not {"failed", "skipped"} & set(result)


def _report(part: Part, results: PartResults, measured: Mapping[str, dict[str, Any]]) -> None:
    if measured:
        print(f"\n{part.table(measured)}\n")
    for case, result in results.cases.items():
        for word in ("failed", "skipped"):
            if word in result:
                print(f"{word}: {case}: {result[word]}")
    for case in results.left:
        print(f"left for the next run (time is up): {case}")
    print(f"{results.part}: {results.status}; written to {results.path}", flush=True)
