"""Times every operator: ``python -m benchmarks.run``. Whole decodings: ``dlmcache bench``.

Prints a Markdown table and writes it and JSON, with the hardware and versions they were measured
on. The share of its bound that an operator reaches is the larger of the time that a copy takes for
its bytes and the time that a product of torch takes for its operations, both measured in the same
run, over its time. What fits into a cache can exceed it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from rich.progress import Progress

from benchmarks.ops import all_cases
from dlmcache_cuda.benchmark.machine import describe, gemm_rate
from dlmcache_cuda.benchmark.timing import time_interleaved


def measure_operators(device: str, wanted: str, budget: float) -> list[dict]:
    """Times every operator and its plain torch baseline, interleaved."""
    results = []
    with Progress() as progress:
        task = progress.add_task("operators", total=None)
        for case in all_cases(device):
            if wanted not in f"{case.op} {case.name}":
                continue
            progress.update(task, description=f"{case.op} {case.name}", advance=1)
            functions = {"op": case.run}
            if case.baseline is not None:
                functions["baseline"] = case.baseline
            timings = time_interleaved(functions, device, budget=budget)
            op = timings["op"]
            result = {
                "op": case.op,
                "case": case.name,
                "microseconds": op.median * 1e6,
                "p10": op.p10 * 1e6,
                "p90": op.p90 * 1e6,
                "repeats": op.repeats,
                "gb_per_s": case.bytes / op.median / 1e9,
                "gflop_per_s": case.flops / op.median / 1e9,
            }
            if "baseline" in timings:
                result["baseline_microseconds"] = timings["baseline"].median * 1e6
                result["speed_up"] = timings["baseline"].median / op.median
            results.append(result)
    return results


def share_of_bound(result: dict, machine: dict) -> float:
    """How near an operator comes to what copies and products of this machine allow."""
    bytes_ = result["gb_per_s"] / machine["copy_gb_per_s"]
    return max(bytes_, result["gflop_per_s"] / machine["gemm_gflop_per_s"])


def operator_table(results: list[dict]) -> str:
    lines = [
        "| operator | case | us (p10-p90) | GB/s | GFLOP/s | of bound | plain torch us | ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        baseline = result.get("baseline_microseconds")
        lines.append(
            f"| {result['op']} | {result['case']} "
            f"| {result['microseconds']:.1f} ({result['p10']:.1f}-{result['p90']:.1f}) "
            f"| {result['gb_per_s']:.1f} | {result['gflop_per_s']:.1f} "
            f"| {100 * result['share_of_bound']:.0f} % "
            + (f"| {baseline:.1f} | {result['speed_up']:.2f}x |" if baseline else "| | |")
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=__doc__)
    parser.add_argument("--device", choices=("cpu", "cuda"), default=None)
    parser.add_argument("--filter", default="", help="only operator cases containing this text")
    parser.add_argument("--budget", type=float, default=1.0, help="seconds per operator case")
    parser.add_argument("--out", type=Path, default=Path("build/bench"), help="folder for JSON")
    arguments = parser.parse_args()
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    arguments.out.mkdir(parents=True, exist_ok=True)
    machine = describe(device) | {"gemm_gflop_per_s": gemm_rate(device)}
    print("\n".join(f"{key}: {value}" for key, value in machine.items()), flush=True)

    results = measure_operators(device, arguments.filter, arguments.budget)
    for result in results:
        result["share_of_bound"] = share_of_bound(result, machine)
    path = arguments.out / "ops.json"
    path.write_text(json.dumps({"machine": machine, "results": results}, indent=1) + "\n")
    table = operator_table(results)
    path.with_suffix(".md").write_text(_page(machine, table))
    print(f"\n{table}\n\nwritten to {path}", flush=True)


def _page(machine: dict, table: str) -> str:
    facts = "\n".join(f"- {name}: {value}" for name, value in machine.items() if name != "build")
    return f"# Operators\n\n{facts}\n\n{table}\n"


if __name__ == "__main__":
    main()
