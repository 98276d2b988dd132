"""What a finished part is finished for: these sources, this commit, this device.

The standard library only: it is asked before the extension is built.
"""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = ("csrc", "dlmcache_cuda", "benchmarks", "python_tests", "setup.py", "pyproject.toml")
SUFFIXES = (".c", ".cpp", ".cu", ".cuh", ".h", ".json", ".py", ".safetensors", ".sh", ".toml")
# Written by benchmarks, so that what was measured does not depend on it.
NO_SOURCES = ("benchmarks/results",)


def key(device: str) -> str:
    return f"{commit()} {digest()[:12]} {device_name(device)}"


def commit() -> str:
    """The commit, marked where the checkout differs from it; ``unknown`` without git."""
    return _output(["git", "-C", str(ROOT), "describe", "--always", "--dirty"]) or "unknown"


def digest() -> str:
    """Of all sources: a checkout that differs from its commit has a key of its own."""
    total = hashlib.sha256()
    for path in sorted(_sources()):
        total.update(f"{path.relative_to(ROOT)}\0".encode())
        total.update(hashlib.sha256(path.read_bytes()).digest())
    return total.hexdigest()


def device_name(device: str) -> str:
    if device == "cpu":
        return "cpu"
    return gpu_facts("name") or "no GPU"


def gpu_facts(query: str) -> str:
    """What nvidia-smi says about the first GPU; empty without one."""
    call = ["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader", "-i", "0"]
    return _output(call)


def _sources():
    for name in SOURCES:
        path = ROOT / name
        for file in path.rglob("*") if path.is_dir() else [path]:
            left_out = str(file.relative_to(ROOT)).startswith(NO_SOURCES)
            if file.is_file() and file.suffix in SUFFIXES and not left_out:
                yield file


def _output(call: list[str]) -> str:
    try:
        result = subprocess.run(call, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return result.stdout.strip() if result.returncode == 0 else ""
