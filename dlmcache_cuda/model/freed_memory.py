"""Freed memory back to the system."""

from __future__ import annotations

import ctypes


def give_back() -> None:
    """Returns what is free inside the C library's heap; nothing where it cannot (not glibc).

    Weights that were replaced by larger ones leave holes that nothing fits into again: as much as
    all of them, resident until somebody asks for it.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
