"""How the time of a step follows its rows: ``python -m benchmarks.rows``.

Decodes random prompts with `dual` in blocks of 1/2, 1/4, ... 1/32 of the canvas: a cached step
computes exactly its block. Every round measures vanilla and all blocks, one after the other; of
each the median over rounds of wall and processor time per step stands beside vanilla's. Prints a
Markdown table and writes JSON.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.progress import Progress

from benchmarks.lines import write_lines
from dlmcache_cuda.benchmark.machine import describe
from dlmcache_cuda.benchmark.measure import make_decoder
from dlmcache_cuda.benchmark.models import ModelSpec
from dlmcache_cuda.benchmark.prompts import RANDOM, Prompts, make_prompts
from dlmcache_cuda.benchmark.row import Row, Workload

PARTS = (2, 4, 8, 16, 32)
# Of vanilla's step, what a step of 1/n of the rows may take: n times this over n.
ALLOWED = {2: 1.2, 4: 1.2, 8: 1.2, 16: 1.2, 32: 1.5}
STEPS = {1: 2, 2: 3, 4: 4, 8: 6, 16: 8, 32: 8}


@dataclass(slots=True)
class Steps:
    """Seconds per step of one kind, a number for each round."""

    rows: int = 0
    """Layer rows of a step."""
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    phases: list[dict[str, float]] = field(default_factory=list)

    def measure(self, model: Any, row: Row, prompts: Prompts, warm_up: int, steps: int) -> None:
        """One round: ``steps`` steps behind the first ``warm_up`` ones, which recompute all."""
        decoder = make_decoder(model, row, prompts)
        decoder.add(0, prompts.ids[0], row.workload.seed)
        for _ in range(warm_up):
            decoder.step()
        before, computed = dict(decoder.timer.seconds), decoder.slots[0].computed
        cpu, begin = time.process_time(), time.perf_counter()
        for _ in range(steps):
            decoder.step()
        self.wall.append((time.perf_counter() - begin) / steps)
        self.cpu.append((time.process_time() - cpu) / steps)
        self.rows = (decoder.slots[0].computed - computed) // steps
        after = decoder.timer.seconds
        self.phases.append({name: (after[name] - before[name]) / steps for name in after})


def measure(model: Any, text: str, canvas: int, rounds: int) -> dict[int, Steps]:
    """Steps by n: vanilla is 1, the others compute 1/n of the canvas."""
    half = canvas // 2
    workload = Workload(text, RANDOM, 1, 1, half, canvas - half, early_stop=False)
    prompts = make_prompts(model, workload)
    rows = {1: Row(workload, "none", {}, half)}
    rows |= {n: Row(workload, "dual", {}, canvas // n) for n in PARTS if canvas // n <= half}
    found = {n: Steps() for n in rows}
    with Progress() as progress:
        task = progress.add_task("rounds", total=rounds * len(rows))
        for _ in range(rounds):
            for n, row in rows.items():
                # The first step of the next block would recompute everything again.
                steps = min(STEPS[n], canvas // n - 1)
                found[n].measure(model, row, prompts, 0 if n == 1 else 1, steps)
                progress.advance(task)
    return found


def lines_of(found: dict[int, Steps], canvas: int) -> list[dict[str, Any]]:
    """A line of the table for every n."""
    vanilla = found[1]
    lines = []
    for n, steps in found.items():
        share = [w / v for w, v in zip(steps.wall, vanilla.wall, strict=True)]
        cpu_share = [w / v for w, v in zip(steps.cpu, vanilla.cpu, strict=True)]
        phases = {p: median(round_[p] for round_ in steps.phases) for p in steps.phases[0]}
        lines.append(
            {
                "n": n,
                "rows": steps.rows * canvas // vanilla.rows,
                "ms": 1e3 * median(steps.wall),
                "cpu_ms": 1e3 * median(steps.cpu),
                "times_n": n * median(share),
                "times_n_low": n * min(share),
                "times_n_high": n * max(share),
                "cpu_times_n": n * median(cpu_share),
                "allowed": ALLOWED.get(n),
                "phases_ms": {name: 1e3 * seconds for name, seconds in phases.items()},
            }
        )
    return lines


def table(lines: Sequence[dict[str, Any]]) -> str:
    """Markdown."""
    text = [
        "| rows | ms per step | CPU ms | of vanilla's step | CPU time | allowed "
        "| network ms | head ms | plan, rows, commit, readback ms |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for line in lines:
        n, phases = line["n"], line["phases_ms"]
        rest = sum(ms for name, ms in phases.items() if name not in ("network", "head"))
        spread = f"{line['times_n_low']:.2f}-{line['times_n_high']:.2f}"
        share = "1" if n == 1 else f"{line['times_n']:.2f} ({spread}) / {n}"
        cpu = "1" if n == 1 else f"{line['cpu_times_n']:.2f} / {n}"
        allowed = "" if line["allowed"] is None else f"{line['allowed']} / {n}"
        text.append(
            f"| {line['rows']} | {line['ms']:.1f} | {line['cpu_ms']:.1f} | {share} | {cpu} "
            f"| {allowed} | {phases['network']:.1f} | {phases['head']:.2f} | {rest:.2f} |"
        )
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rows", description=__doc__)
    parser.add_argument("--model", default="random:12x512", help="see dlmcache bench --model")
    parser.add_argument("--canvas", type=int, default=1024, help="positions, half of them prompt")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("build/bench/rows.json"))
    arguments = parser.parse_args()
    if arguments.canvas < 64 or arguments.canvas % 64:
        parser.error(f"--canvas must be a multiple of 64, got {arguments.canvas}")
    if arguments.rounds < 1:
        parser.error(f"--rounds must be at least 1, got {arguments.rounds}")
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    model = ModelSpec.parse(arguments.model).load(arguments.out.parent, arguments.device)
    header = describe(arguments.device)
    header |= {"model": arguments.model, "canvas": arguments.canvas, "rounds": arguments.rounds}
    found = measure(model, arguments.model, arguments.canvas, arguments.rounds)
    lines = lines_of(found, arguments.canvas)
    print(table(lines))
    write_lines(arguments.out, header, lines)


if __name__ == "__main__":
    main()
