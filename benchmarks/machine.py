"""What the figures were measured on."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
from pathlib import Path

import torch

import dlmcache_cuda
from benchmarks.case import time_interleaved


def describe(device: str) -> dict[str, object]:
    """Hardware, versions, commit and date, to stand beside every result."""
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "build": dlmcache_cuda.build_info(),
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "copy_gb_per_s": copy_bandwidth(device),
    }


def copy_bandwidth(device: str) -> float:
    """GB/s read plus written by a large copy, the median of several."""
    source = torch.ones(2**28 if device == "cuda" else 2**25, device=device)
    target = torch.empty_like(source)
    functions = {"copy": lambda: target.copy_(source)}
    timing = time_interleaved(functions, device, warm_up=2, repeats=20, budget=0.5)["copy"]
    return round(2 * source.nbytes / timing.median / 1e9, 1)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _commit() -> str:
    folder = Path(__file__).parent
    call = ["git", "-C", str(folder), "describe", "--always", "--dirty"]
    result = subprocess.run(call, capture_output=True, text=True, check=False)
    return result.stdout.strip() or "unknown"
