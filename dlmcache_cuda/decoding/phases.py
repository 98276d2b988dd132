"""Wall time by phase."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from typing import Any

from dlmcache_cuda.profiling import annotate

PHASES = ("plan", "rows", "network", "head", "commit", "readback")


class _Phase:
    """Times what stands inside it."""

    __slots__ = ("_seconds", "_name", "_range", "_begin")

    def __init__(self, seconds: dict[str, float], name: str) -> None:
        self._seconds, self._name = seconds, name

    def __enter__(self) -> None:
        self._begin = time.perf_counter()
        self._range = annotate(self._name)
        self._range.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._range.__exit__(*error)
        self._seconds[self._name] += time.perf_counter() - self._begin


class PhaseTimer:
    """Adds up the seconds spent in each phase of a step."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self._begin = time.perf_counter()

    def phase(self, name: str) -> AbstractContextManager[None]:
        """A range of that name, whose seconds are added to the phase's."""
        return _Phase(self.seconds, name)

    def result(self) -> dict[str, float]:
        """Seconds by phase, and ``total`` since the timer was made."""
        return {**self.seconds, "total": time.perf_counter() - self._begin}
