"""What the device can do at best: copy memory, and multiply matrices. The floors of all others."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmarks.gpu.options import Options
from dlmcache_cuda.benchmark.timing import Timing, time_interleaved


@dataclass(frozen=True, slots=True)
class Roofline:
    """Bytes read plus written per second by a large copy; operations per second of a GEMM."""

    bandwidth: float
    matmul: float
    timings: dict[str, Timing]

    def floor(self, moved: int) -> float:
        """Seconds that so many bytes take."""
        return moved / self.bandwidth

    def matmul_floor(self, flops: int) -> float:
        """Seconds that so many operations take."""
        return flops / self.matmul


def measure_roofline(options: Options) -> Roofline:
    on_gpu = options.device == "cuda"
    size = 2**30 if on_gpu else 2**24
    side = 8192 if on_gpu else 256
    dtype = torch.bfloat16 if on_gpu else torch.float32
    source = torch.ones(size, dtype=torch.uint8, device=options.device)
    target = torch.empty_like(source)
    a, b = torch.randn(2, side, side, device=options.device).to(dtype).unbind()
    functions = {"copy": lambda: target.copy_(source), "matmul": lambda: a @ b}
    budget = 0.2 if options.quick else 1.0
    timings = time_interleaved(functions, options.device, repeats=30, budget=budget)
    return Roofline(
        bandwidth=2 * size / timings["copy"].median,
        matmul=2 * side**3 / timings["matmul"].median,
        timings=timings,
    )
