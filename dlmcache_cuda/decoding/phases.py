"""Wall time by phase."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from dlmcache_cuda.profiling import annotate

PHASES = ("plan", "rows", "network", "head", "commit", "readback")


class PhaseTimer:
    """Adds up the seconds spent in each phase of a step."""

    def __init__(self) -> None:
        self.seconds = dict.fromkeys(PHASES, 0.0)
        self._begin = time.perf_counter()

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        begin = time.perf_counter()
        try:
            with annotate(name):
                yield
        finally:
            self.seconds[name] += time.perf_counter() - begin

    def result(self) -> dict[str, float]:
        """Seconds by phase, and ``total`` since the timer was made."""
        return {**self.seconds, "total": time.perf_counter() - self._begin}
