"""Bandwidth of a large copy on the device and the rate of a large GEMM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.gpu.context import Context
from benchmarks.gpu.options import Options


def cases(options: Options) -> dict[str, str]:
    return {"device": "device"}


def measure(context: Context, case: str) -> dict[str, Any]:
    roofline = context.roofline
    copy, matmul = roofline.timings["copy"], roofline.timings["matmul"]
    return {
        "copy_gb_per_s": roofline.bandwidth / 1e9,
        "copy_gb_per_s_p10": roofline.bandwidth * copy.median / copy.p90 / 1e9,
        "copy_gb_per_s_p90": roofline.bandwidth * copy.median / copy.p10 / 1e9,
        "matmul_tflop_per_s": roofline.matmul / 1e12,
        "matmul_tflop_per_s_p10": roofline.matmul * matmul.median / matmul.p90 / 1e12,
        "matmul_tflop_per_s_p90": roofline.matmul * matmul.median / matmul.p10 / 1e12,
    }


def table(cases: Mapping[str, dict[str, Any]]) -> str:
    found = cases["device"]
    lines = ["| what | median (p10-p90) |", "|---|---|"]
    for name, unit in (("copy_gb_per_s", "GB/s"), ("matmul_tflop_per_s", "TFLOP/s")):
        low, high = found[f"{name}_p10"], found[f"{name}_p90"]
        lines.append(
            f"| {name.partition('_')[0]} | {found[name]:.2f} ({low:.2f}-{high:.2f}) {unit} |"
        )
    return "\n".join(lines)


def headline(cases: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    found = cases["device"]
    return [
        {"what": "copy bandwidth", "value": found["copy_gb_per_s"], "unit": "GB/s"},
        {"what": "matrix product", "value": found["matmul_tflop_per_s"], "unit": "TFLOP/s"},
    ]
