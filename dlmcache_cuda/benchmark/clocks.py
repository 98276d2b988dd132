"""How long one call takes: wall time on the CPU, device time between two events on a GPU."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch

# Several times the L2 cache of any GPU. Writing it also takes longer than most calls take to be
# queued, so that what is timed is the work and not the wait for the host.
FLUSHED_BYTES = 2**29


class WallClock:
    """Seconds until a call has returned."""

    def time(self, function: Callable[[], object]) -> float:
        begin = time.perf_counter()
        function()
        return time.perf_counter() - begin


class EventClock:
    """Seconds that the device spends on what a call queues; its operands are not in the L2 cache.

    A call that queues more slowly than the device computes is timed with the gaps between kernels.
    """

    def __init__(self, flushed_bytes: int = FLUSHED_BYTES) -> None:
        self._flushed = torch.empty(flushed_bytes, dtype=torch.uint8, device="cuda")
        self._begin = torch.cuda.Event(enable_timing=True)
        self._end = torch.cuda.Event(enable_timing=True)

    def time(self, function: Callable[[], object]) -> float:
        self._flushed.zero_()
        self._begin.record()
        function()
        self._end.record()
        self._end.synchronize()
        return self._begin.elapsed_time(self._end) / 1e3


def clock_of(device: str) -> WallClock | EventClock:
    return EventClock() if device.startswith("cuda") else WallClock()
