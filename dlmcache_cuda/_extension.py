"""Loads the compiled operators and tells what was built."""

from __future__ import annotations

import functools
import json

import torch  # noqa: F401  (the extension links against torch's libraries, so torch comes first)

try:
    from dlmcache_cuda import _C
except ImportError as error:
    raise ImportError(
        f"dlmcache_cuda: the compiled extension dlmcache_cuda._C cannot be loaded ({error}). "
        f"This is torch {torch.__version__}; the extension needs torch >= 2.11 and must be built "
        "for this Python version. Build it with `make build` in a checkout, or reinstall with "
        "`pip install --no-build-isolation .`"
    ) from error


@functools.cache
def build_info() -> dict:
    """What the extension was built from and for.

    Keys: ``torch``, ``python`` (versions at build time), ``cuda`` (bool), ``cuda_reason``,
    ``cuda_archs``, ``cpu_archs`` (lists), ``cpu_arch`` (the instruction set in use now), ``nvtx``
    (bool: NVTX ranges can be switched on).
    """
    return {**json.loads(_C.build_info()), "cpu_arch": _C.cpu_arch()}


def has_cuda() -> bool:
    """True when the CUDA operators were compiled in (whether or not a GPU is present)."""
    return build_info()["cuda"]
