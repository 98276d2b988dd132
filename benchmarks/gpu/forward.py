"""Time of a forward and of a whole decoding step against reading weights and cache once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch

import dlmcache_cuda
from benchmarks.gpu.context import Context
from benchmarks.gpu.graphs import modes
from benchmarks.gpu.model import block_bytes, cached_bytes, head_bytes
from benchmarks.gpu.options import Options
from benchmarks.gpu.steps import timed_steps
from dlmcache_cuda.benchmark.timing import Timing, summarize, time_interleaved
from dlmcache_cuda.cache import RowList

ROWS = (16, 32, 64, 128, 256, 512)
POSITIONS = (512, 2048, 8192)
# A block's first step is a refresh, its second runs eagerly, its third is captured. The next ones
# have the same shape even for the fewest rows.
FIRST, STEPS = 3, 5


def cases(options: Options) -> dict[str, tuple[int, int]]:
    pairs = [(16, 64)] if options.quick else [(r, n) for n in POSITIONS for r in ROWS]
    return {f"{rows} rows, {positions} positions": (rows, positions) for rows, positions in pairs}


def measure(context: Context, case: tuple[int, int]) -> dict[str, Any]:
    rows, positions = case
    model, roofline = context.model, context.roofline
    read = block_bytes(model) + cached_bytes(model, positions)
    floors = {
        "forward": roofline.floor(read),
        "step": roofline.floor(read + head_bytes(model)),
    }
    macs = block_bytes(model) // model.dtype.itemsize
    found = {"rows": rows, "positions": positions, "copy_gb_per_s": roofline.bandwidth / 1e9}
    found["matmul_floor_ms"] = roofline.matmul_floor(2 * rows * macs) * 1e3
    found["times"] = []
    timings = {("forward", mode): t for mode, t in _forward(context, rows, positions).items()}
    if rows < positions:  # the step's canvas needs a prompt
        timings |= {("step", mode): t for mode, t in _steps(context, rows, positions).items()}
    for (what, mode), timing in timings.items():
        line = {"what": what, "mode": mode, "floor_ms": floors[what] * 1e3}
        line |= {name: asdict(timing)[name] * 1e3 for name in ("median", "p10", "p90")}
        found["times"].append(line | {"ratio": timing.median / floors[what]})
    return found


def _forward(context: Context, rows: int, positions: int) -> dict[str, Timing]:
    model, device = context.model, context.options.device
    tokens = torch.randint(0, 60, (positions,), device=device)
    listed = RowList.from_ranges([positions - rows], [positions], positions, device)
    cache = model.new_cache(1, positions)
    lengths = torch.tensor([positions], device=device)

    def eager() -> None:
        model.forward_rows(tokens, listed, cache, lengths, [positions])

    with torch.no_grad():
        functions = {"eager": eager}
        if device == "cuda":
            functions["captured"] = _capture(eager)
        budget = 0.1 if context.options.quick else 0.5
        return time_interleaved(functions, device, warm_up=3, budget=budget)


def _capture(function):
    """A graph's replay. Libraries allocate at their first call, which is made outside it."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        function()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        function()
    return graph.replay


def _steps(context: Context, rows: int, positions: int) -> dict[str, Timing]:
    """The dual cache computes the rows of its block; everything else comes from the cache."""
    model, options = context.model, context.options
    prompt = torch.randint(0, 60, (positions - rows,))
    available = modes(options.device)
    seconds: dict[str, list[float]] = {mode: [] for mode in available}
    for _ in range(1 if options.quick else 4):
        for mode, arguments in available.items():
            with timed_steps(FIRST + STEPS) as measured:
                dlmcache_cuda.decode(
                    model, [prompt], gen_length=rows, cache="dual", stop_at_eos=False, seed=0,
                    **arguments,
                )  # fmt: skip
            seconds[mode] += measured[FIRST:]
    return {mode: summarize(values) for mode, values in seconds.items()}


def table(cases: Mapping[str, dict[str, Any]]) -> str:
    lines = [
        "| rows | positions | what | ms (p10-p90) | floor ms | ratio | matrix-product floor ms |",
        "|---|---|---|---|---|---|---|",
    ]
    for case in cases.values():
        for line in case["times"]:
            lines.append(
                f"| {case['rows']} | {case['positions']} | {line['what']}, {line['mode']} "
                f"| {line['median']:.3f} ({line['p10']:.3f}-{line['p90']:.3f}) "
                f"| {line['floor_ms']:.3f} | {line['ratio']:.2f} | {case['matmul_floor_ms']:.3f} |"
            )
    return "\n".join(lines)


def headline(cases: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    chosen = cases.get("32 rows, 2048 positions") or next(iter(cases.values()))
    return [
        {
            "what": f"{line['what']}, {line['mode']}, {chosen['rows']} rows, "
            f"{chosen['positions']} positions",
            "value": line["median"],
            "unit": "ms",
            "floor": line["floor_ms"],
            "ratio": line["ratio"],
        }
        for line in chosen["times"]
    ]
