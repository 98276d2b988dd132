"""Freed memory back to the system."""

from __future__ import annotations

import ctypes
import os
import time
from pathlib import Path

_STATM = Path("/proc/self/statm")

# How far a process may grow beyond what was predicted: a share of all of that, and at least.
_SLACK, _LEAST_SLACK = 1 / 50, 4 * 2**20

# Seconds between two looks, which take 30 microseconds; and after a return for each byte, since
# taking a page again costs about two microseconds: no more than a fiftieth of the time goes there.
_BETWEEN_LOOKS = 0.05
_PER_BYTE = 50 * 2e-6 / 4096


def give_back() -> None:
    """Returns what is free inside the C library's heap; nothing where it cannot (not glibc).

    Weights that were replaced by larger ones leave holes that nothing fits into again: as much as
    all of them, resident until somebody asks for it.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def resident_bytes() -> int | None:
    """Memory that the process has of the system, or None where the system does not tell."""
    try:
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


class ResidentBound:
    """Keeps a process near what is in use, while tensors of changing sizes come and go on a CPU.

    What oneDNN prepares for every new number of rows, and keeps, cuts the holes that such tensors
    leave: the next ones of the same size no longer fit, and the heap grows from step to
    step though nothing more is in use.

    Args:
        more: bytes that were predicted to be taken from now on, at most.
        total: the same with what was taken already.
    """

    def __init__(self, more: int, total: int) -> None:
        resident = resident_bytes()
        self._slack = max(int(total * _SLACK), _LEAST_SLACK)
        self._bound = None if resident is None else resident + more + self._slack
        self._next = time.monotonic() + _BETWEEN_LOOKS

    def look(self) -> None:
        """Gives back what is free where the process has grown beyond the bound."""
        now = time.monotonic()
        if self._bound is None or now < self._next:
            return
        resident = resident_bytes()
        wait = _BETWEEN_LOOKS
        if resident is not None and resident > self._bound:
            give_back()
            left = resident_bytes()
            left = resident if left is None else left
            # What others hold is no reason to try again at every step.
            self._bound = max(self._bound, left + self._slack)
            wait = max(wait, (resident - left) * _PER_BYTE)
        self._next = now + wait
