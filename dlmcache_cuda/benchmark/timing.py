"""How calls are timed: in turn, by medians."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dlmcache_cuda.benchmark.clocks import clock_of


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds per call: median and the 10th and 90th percentile."""

    median: float
    p10: float
    p90: float
    repeats: int


def time_interleaved(
    functions: dict[str, Callable[[], object]],
    device: str,
    *,
    warm_up: int = 10,
    repeats: int = 50,
    budget: float = 2.0,
) -> dict[str, Timing]:
    """Times functions in turn, so that a disturbance of the machine meets all of them alike.

    On a GPU calls are timed by events, with a cold L2 cache. Stops at ``repeats`` rounds, or
    earlier (but not before five) when ``budget`` seconds are spent.
    """
    clock = clock_of(device)
    begin = time.perf_counter()
    for _ in range(warm_up):
        for function in functions.values():
            clock.time(function)
        if time.perf_counter() - begin > budget / 4:
            break
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    begin = time.perf_counter()
    for number in range(repeats):
        for name, function in functions.items():
            seconds[name].append(clock.time(function))
        if number >= 4 and time.perf_counter() - begin > budget:
            break
    return {name: summarize(values) for name, values in seconds.items()}


def summarize(values: Sequence[float]) -> Timing:
    """Of at least one value."""
    ordered = sorted(values)

    def percentile(share: float) -> float:
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))]

    return Timing(percentile(0.5), percentile(0.1), percentile(0.9), len(ordered))
