"""Show versions, devices, what was built and why not.

Exits with 0 when the operators load and run.
"""

from __future__ import annotations

import argparse
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def collect() -> dict[str, Any]:
    """Everything that a bug report needs."""
    import torch

    import dlmcache_cuda
    from dlmcache_cuda import ops
    from dlmcache_cuda.assets import tiny_llada_path
    from dlmcache_cuda.model.native import native_dtypes

    info = dlmcache_cuda.build_info()
    weights = tiny_llada_path() / "model.safetensors"
    norm = ops.rms_norm(torch.ones(2, 8), torch.ones(8), 1e-5)
    return {
        "dlmcache_cuda": dlmcache_cuda.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "transformers": _version("transformers"),
        "safetensors": _version("safetensors"),
        "cpu operators": f"{info['cpu_arch']} in use; compiled: {', '.join(info['cpu_archs'])}",
        "cpu threads": torch.get_num_threads(),
        "cpu computes": ", ".join(_short(dtype) for dtype in native_dtypes(torch.device("cpu"))),
        "cpu operators run": bool(torch.isfinite(norm).all()),
        "cuda operators": _cuda_operators(info),
        "cuda devices": _cuda_devices(torch),
        "nvtx ranges": _nvtx(info),
        "built with": f"torch {info['torch']}, Python {info['python']}",
        "bundled model": f"{weights.stat().st_size / 2**20:.1f} MiB"
        if weights.exists()
        else "missing",
        "caches": ", ".join(dlmcache_cuda.available_policies()),
    }


def _short(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _cuda_operators(info: dict) -> str:
    if not info["cuda"]:
        return f"not built: {info['cuda_reason']}; rebuild with DLMCACHE_WITH_CUDA=1"
    return f"built for {', '.join(info['cuda_archs'])} ({info['cuda_reason']})"


def _cuda_devices(torch) -> str:
    if torch.version.cuda is None:
        return "none: this torch is built without CUDA"
    if not torch.cuda.is_available():
        return f"none found by torch (built for CUDA {torch.version.cuda})"
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return ", ".join(names)


def _nvtx(info: dict) -> str:
    from dlmcache_cuda import _C

    if not info["nvtx"]:
        return "not built: no headers of nvtx3 (they come with a CUDA toolkit)"
    return "on" if _C.nvtx_enabled() else "built; DLMCACHE_NVTX=1 switches them on"


def run(arguments: argparse.Namespace) -> int:
    facts = collect()
    if arguments.json:
        print(json.dumps(facts, indent=1))
    else:
        width = max(map(len, facts))
        for name, value in facts.items():
            print(f"{name:<{width}}  {value}")
    return 0 if facts["cpu operators run"] else 1
