"""What everything was measured on, to stand above the results."""

from __future__ import annotations

import shutil
import subprocess

import torch

from benchmarks.gpu.key import gpu_facts
from dlmcache_cuda.benchmark.machine import describe


def header(device: str) -> dict[str, object]:
    """Device, driver, versions, commit and date."""
    machine = describe(device)
    # Every part measures it for itself, beside what it is compared with.
    del machine["copy_gb_per_s"]
    machine["nvcc"] = _nvcc()
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        machine["driver"] = gpu_facts("driver_version") or "unknown"
        machine["cuda_of_torch"] = torch.version.cuda
        machine["capability"] = f"{properties.major}.{properties.minor}"
        machine["memory_gb"] = round(properties.total_memory / 1e9, 1)
    return machine


def text(machine: dict[str, object]) -> str:
    return "\n".join(f"{name}: {value}" for name, value in machine.items())


def _nvcc() -> str:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        return "not on the PATH"
    said = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False).stdout
    lines = [line.strip() for line in said.splitlines() if "release" in line]
    return lines[0] if lines else "unknown"
