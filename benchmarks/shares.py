"""What a step spends in operators and matrix products: ``python -m benchmarks.shares``.

Decodes questions on the bundled model, one token per step, and takes the time of every call of an
operator and of torch's products; what is left of a step is Python and small calls of torch around
them. Steps that refresh by schedule stand apart from cached ones. Every round measures all
policies, one after the other. Prints a Markdown table and writes JSON.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from rich.progress import Progress

from benchmarks.lines import write_lines
from dlmcache_cuda.benchmark.machine import describe
from dlmcache_cuda.benchmark.matrix import Matrix
from dlmcache_cuda.benchmark.measure import make_decoder
from dlmcache_cuda.benchmark.models import ModelSpec
from dlmcache_cuda.benchmark.prompts import Prompts, make_prompts
from dlmcache_cuda.benchmark.row import Row

POLICIES = ("none", "prefix", "dual", "elastic", "spa", "dkv-decode", "dkv-greedy")
KINDS = ("cached", "refresh")


class OperatorClock:
    """Seconds inside operators and products while :meth:`running`."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        names = {name.split("::")[1].split(".")[0] for name in _operator_names()}
        places = [(torch.ops.dlmcache, name) for name in sorted(names)]
        places += [(F, "linear"), (F, "scaled_dot_product_attention")]
        usual = [getattr(owner, name) for owner, name in places]
        try:
            for (owner, name), function in zip(places, usual, strict=True):
                setattr(owner, name, self._timed(function))
            yield
        finally:
            for (owner, name), function in zip(places, usual, strict=True):
                setattr(owner, name, function)

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            begin = time.perf_counter()
            result = function(*arguments, **named)
            self.seconds += time.perf_counter() - begin
            return result

        return call


def _operator_names() -> list[str]:
    names = torch._C._dispatch_get_all_op_names()
    return [name for name in names if name.startswith("dlmcache::")]


@dataclass(slots=True)
class Steps:
    """Of the steps of one kind, for each round: how many, their seconds, and those inside operators
    and products."""

    rounds: list[tuple[int, float, float]] = field(default_factory=list)

    @property
    def milliseconds(self) -> float:
        return 1e3 * median(whole / count for count, whole, _ in self.rounds)

    @property
    def outside(self) -> float:
        """Milliseconds of a step outside of both."""
        return 1e3 * median((whole - inside) / count for count, whole, inside in self.rounds)

    @property
    def shares(self) -> list[float]:
        return [inside / whole for _, whole, inside in self.rounds]


def one_round(model: Any, row: Row, prompts: Prompts, found: dict[str, Steps]) -> None:
    """Decodes all prompts, one after the other."""
    decoder, clock = make_decoder(model, row, prompts), OperatorClock()
    sums = {kind: [0, 0.0, 0.0] for kind in KINDS}
    with clock.running():
        for number, ids in enumerate(prompts.ids):
            decoder.add(number, ids, row.workload.seed)
            while not decoder.idle:
                slot = decoder.slots[0]
                refreshes, inside = slot.refreshes, clock.seconds
                begin = time.perf_counter()
                decoder.step()
                seconds = time.perf_counter() - begin
                kind = sums["refresh" if slot.refreshes > refreshes else "cached"]
                kind[0] += 1
                kind[1] += seconds
                kind[2] += clock.seconds - inside
    for kind, (count, whole, inside) in sums.items():
        if count:
            found.setdefault(kind, Steps()).rounds.append((count, whole, inside))


def measure(
    model: Any, policies: Sequence[str], sequences: int, rounds: int
) -> dict[str, dict[str, Steps]]:
    """Steps by row and kind."""
    matrix = Matrix(["bundled"], policies, commits=["1"], sequences=sequences, stock=False)
    rows = {row.cache: row for row in matrix.rows() if row.cache in policies}
    prompts = {name: make_prompts(model, row.workload) for name, row in rows.items()}
    found: dict[str, dict[str, Steps]] = {str(row): {} for row in rows.values()}
    with Progress() as progress:
        task = progress.add_task("rounds", total=(rounds + 1) * len(rows))
        for round_ in range(rounds + 1):
            for name, row in rows.items():
                # The first round warms up.
                one_round(model, row, prompts[name], found[str(row)] if round_ else {})
                progress.advance(task)
    return found


def lines_of(found: dict[str, dict[str, Steps]], threads: int) -> list[dict[str, Any]]:
    """A line of the table for every row and kind."""
    return [
        {
            "method": method,
            "steps": kind,
            "threads": threads,
            "ms": steps.milliseconds,
            "outside_ms": steps.outside,
            "share": median(steps.shares),
            "share_low": min(steps.shares),
            "share_high": max(steps.shares),
        }
        for method, kinds in found.items()
        for kind, steps in sorted(kinds.items())
    ]


def table(lines: Sequence[dict[str, Any]]) -> str:
    """Markdown."""
    text = [
        "| method | steps | threads | ms per step | ms outside | in operators and products |",
        "|---|---|---|---|---|---|",
    ]
    for line in lines:
        spread = f"{100 * line['share_low']:.0f}-{100 * line['share_high']:.0f}"
        text.append(
            f"| {line['method']} | {line['steps']} | {line['threads']} | {line['ms']:.2f} "
            f"| {line['outside_ms']:.2f} | {100 * line['share']:.0f} % ({spread}) |"
        )
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.shares", description=__doc__)
    parser.add_argument("--policies", nargs="+", default=list(POLICIES), choices=POLICIES)
    parser.add_argument("--sequences", type=int, default=4, help="questions of a round")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--out", type=Path, default=Path("build/bench/shares.json"))
    arguments = parser.parse_args()
    for name in ("sequences", "rounds"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(arguments, name)}")
    if min(arguments.threads) < 1:
        parser.error(f"--threads must be at least 1, got {min(arguments.threads)}")
    model = ModelSpec.parse("bundled").load(arguments.out.parent, "cpu")
    header, lines = describe("cpu"), []
    header |= {"sequences": arguments.sequences, "rounds": arguments.rounds}
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        found = measure(model, arguments.policies, arguments.sequences, arguments.rounds)
        lines += lines_of(found, threads)
    print(table(lines))
    write_lines(arguments.out, header, lines)


if __name__ == "__main__":
    main()
