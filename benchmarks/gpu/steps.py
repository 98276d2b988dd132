"""Wall time of decoding steps. A step ends with a readback, so this is all of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from dlmcache_cuda.decoding.decoder import SlotDecoder


class _Enough(Exception):
    pass


@contextmanager
def timed_steps(limit: int | None = None) -> Iterator[list[float]]:
    """Collects the seconds of every step inside; ends what runs inside after ``limit`` steps."""
    seconds: list[float] = []
    plain = SlotDecoder.step

    def step(decoder: SlotDecoder):
        begin = time.perf_counter()
        finished = plain(decoder)
        seconds.append(time.perf_counter() - begin)
        if limit is not None and len(seconds) == limit:
            raise _Enough
        return finished

    with mock.patch.object(SlotDecoder, "step", step):
        try:
            yield seconds
        except _Enough:
            return
