"""Named ranges of a run, for NVTX tools (DLMCACHE_NVTX=1) and for torch.profiler.

Operators open their NVTX ranges themselves (csrc/ops/run.h), and torch's dispatcher names them for
torch.profiler; here are the ranges of everything around them.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import wraps
from typing import Any, TypeVar

import torch

from dlmcache_cuda import _C, _extension

_Function = TypeVar("_Function", bound=Callable[..., Any])


def _asked_for() -> bool:
    value = os.environ.get("DLMCACHE_NVTX", "0")
    if value not in ("", "0", "1"):
        raise ValueError(f"DLMCACHE_NVTX must be 0 or 1, got {value!r}")
    return value == "1"


# Read once, like the operators do: a range that was opened must be closed.
_ASKED_FOR = _asked_for()
_NVTX = _C.nvtx_enabled()
_NOTHING = nullcontext()

if _ASKED_FOR and not _extension.build_info()["nvtx"]:
    warnings.warn(
        "DLMCACHE_NVTX=1, but dlmcache_cuda was built without the headers of nvtx3: there are no "
        "NVTX ranges; rebuild with a CUDA toolkit",
        stacklevel=2,
    )


class _Range:
    """One range, seen by NVTX if it is on and by torch.profiler."""

    __slots__ = ("_name", "_record")

    def __init__(self, name: str) -> None:
        self._name = name
        self._record = torch._C._profiler._RecordFunctionFast(name)

    def __enter__(self) -> None:
        if _NVTX:
            _C.nvtx_push(self._name)
        self._record.__enter__()

    def __exit__(self, *error: object) -> None:
        self._record.__exit__(*error)
        if _NVTX:
            _C.nvtx_pop()


def annotate(name: str, number: int | None = None) -> AbstractContextManager[None]:
    """A range named ``name``, or ``name number``; nothing while nobody looks.

    >>> with annotate("layer", 3):
    ...     h = block.forward(h)
    """
    if not (_ASKED_FOR or torch.autograd._profiler_enabled()):
        return _NOTHING
    return _Range(name if number is None else f"{name} {number}")


def annotated(name: str) -> Callable[[_Function], _Function]:
    """Decorator: every call of the function is a range named ``name``."""

    def decorate(function: _Function) -> _Function:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            with annotate(name):
                return function(*args, **kwargs)

        return call  # type: ignore[return-value]

    return decorate
