"""What the figures were measured on."""

from __future__ import annotations

import datetime
import hashlib
import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import dlmcache_cuda
from dlmcache_cuda.benchmark.timing import time_interleaved

PACKAGE = Path(__file__).resolve().parents[1]
# What stands around the decoding that is measured.
_NOT_MEASURED = ("benchmark", "cli", "evaluation", "likelihood", "report", "serving", "tuning")


def describe(device: str) -> dict[str, Any]:
    """Hardware, versions, commit and date, to stand beside every result."""
    return {
        "device": device_name(device),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": _version("transformers"),
        "python": platform.python_version(),
        "build": dlmcache_cuda.build_info(),
        "commit": _commit(),
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "copy_gb_per_s": copy_bandwidth(device),
    }


def fingerprint(device: str) -> str:
    """Tells runs apart whose times must not be mixed: other sources, torch, threads or device."""
    digest = hashlib.sha256()
    for path in sorted(PACKAGE.rglob("*")):
        relative = path.relative_to(PACKAGE)
        if relative.parts[0] not in _NOT_MEASURED and path.suffix in (".py", ".so", ".safetensors"):
            digest.update(f"{relative}\0".encode())
            digest.update(path.read_bytes())
    facts = (torch.__version__, str(torch.get_num_threads()), device_name(device))
    digest.update("\0".join(facts).encode())
    return digest.hexdigest()[:16]


def device_name(device: str) -> str:
    """The GPU's name, or the processor's."""
    return torch.cuda.get_device_name(device) if device.startswith("cuda") else _processor()


def copy_bandwidth(device: str) -> float:
    """GB/s read plus written by a large copy, the median of several."""
    source = torch.ones(2**28 if device.startswith("cuda") else 2**25, device=device)
    target = torch.empty_like(source)
    functions = {"copy": lambda: target.copy_(source)}
    timing = time_interleaved(functions, device, warm_up=2, repeats=20, budget=0.5)["copy"]
    return round(2 * source.nbytes / timing.median / 1e9, 1)


def gemm_rate(device: str) -> float:
    """GFLOP/s of a large product of torch, fp32 on a CPU and bfloat16 on a GPU; median of
    several."""
    cuda = device.startswith("cuda")
    size = 8192 if cuda else 2048
    matrix = torch.ones(size, size, device=device, dtype=torch.bfloat16 if cuda else torch.float32)
    functions = {"gemm": lambda: matrix @ matrix}
    timing = time_interleaved(functions, device, warm_up=2, repeats=20, budget=2.0)["gemm"]
    return round(2 * size**3 / timing.median / 1e9, 1)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str:
    """The commit of the checkout that the package stands in; ``unknown`` for an installed one."""
    if not (PACKAGE.parent / "setup.py").exists():
        return "unknown"
    call = ["git", "-C", str(PACKAGE), "describe", "--always", "--dirty"]
    try:
        result = subprocess.run(call, capture_output=True, text=True, check=False)
    except OSError:
        return "unknown"
    return result.stdout.strip() or "unknown"
