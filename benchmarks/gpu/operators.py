"""Every operator against the copy bandwidth, at the sizes of LLaDA-8B."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from benchmarks.gpu.context import Context
from benchmarks.gpu.options import Options
from benchmarks.ops import all_cases, families
from dlmcache_cuda.benchmark.timing import time_interleaved

QUICK = ("norm", "rope_cache", "swiglu")
# Shapes of small models say nothing about a large GPU, and those of large ones much about a CPU's
# patience.
SMALL = "bundled"


def cases(options: Options) -> dict[str, str]:
    names = QUICK if options.quick else families()
    return {name: name for name in names}


def measure(context: Context, case: str) -> dict[str, Any]:
    options, roofline = context.options, context.roofline
    budget = 0.05 if options.quick else 2.0 if options.full else 0.3
    shapes = []
    for timed in all_cases(options.device, [case]):
        if (SMALL in timed.name) != (options.size == "tiny"):
            continue
        functions = {"op": timed.run}
        # Plain torch is for the whole comparison; the floor is what counts here.
        if options.full and timed.baseline is not None:
            functions["torch"] = timed.baseline
        timings = time_interleaved(functions, options.device, budget=budget)
        op, floor = timings["op"], roofline.floor(timed.bytes)
        shapes.append(
            {
                "op": timed.op,
                "shape": timed.name,
                "us": op.median * 1e6,
                "us_p10": op.p10 * 1e6,
                "us_p90": op.p90 * 1e6,
                "repeats": op.repeats,
                "gb_per_s": timed.bytes / op.median / 1e9,
                "floor_us": floor * 1e6,
                "ratio": op.median / floor,
                "matmul_floor_us": roofline.matmul_floor(timed.flops) * 1e6,
                "torch_us": timings["torch"].median * 1e6 if "torch" in timings else None,
            }
        )
    if not shapes:
        return {"skipped": f"no shapes for the size {options.size}"}
    return {"copy_gb_per_s": roofline.bandwidth / 1e9, "shapes": shapes}


def table(cases: Mapping[str, dict[str, Any]]) -> str:
    lines = [
        "| operator | shape | us (p10-p90) | GB/s | floor us | ratio | matrix-product floor us |",
        "|---|---|---|---|---|---|---|",
    ]
    for shape in _shapes(cases):
        lines.append(
            f"| {shape['op']} | {shape['shape']} "
            f"| {shape['us']:.1f} ({shape['us_p10']:.1f}-{shape['us_p90']:.1f}) "
            f"| {shape['gb_per_s']:.0f} | {shape['floor_us']:.1f} | {shape['ratio']:.2f} "
            f"| {shape['matmul_floor_us']:.1f} |"
        )
    return "\n".join(lines)


def headline(cases: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The median and the largest ratio of the shapes that are long enough to be about memory."""
    shapes = _shapes(cases)
    # A launch takes a few microseconds, and no kernel of a long product is bound by memory.
    bound = [s for s in shapes if s["floor_us"] >= max(10.0, s["matmul_floor_us"])] or shapes
    middle = statistics.median_low(shape["ratio"] for shape in bound)
    chosen = {
        "operator, middle": next(shape for shape in bound if shape["ratio"] == middle),
        "operator, slowest": max(bound, key=lambda shape: shape["ratio"]),
    }
    return [
        {
            "what": f"{what}: {shape['op']} {shape['shape']}",
            "value": shape["us"],
            "unit": "us",
            "floor": shape["floor_us"],
            "ratio": shape["ratio"],
        }
        for what, shape in chosen.items()
    ]


def _shapes(cases: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [shape for family in cases.values() for shape in family["shapes"]]
