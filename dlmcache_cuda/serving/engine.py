"""The thread that owns the model."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence

from dlmcache_cuda.model import Llada
from dlmcache_cuda.serving.decode_settings import LaneSettings
from dlmcache_cuda.serving.errors import ApiError, shutting_down
from dlmcache_cuda.serving.job import Job
from dlmcache_cuda.serving.limits import Limits
from dlmcache_cuda.serving.metrics import Metrics
from dlmcache_cuda.serving.scheduler import Scheduler
from dlmcache_cuda.serving.text_codec import TextCodec

_log = logging.getLogger(__name__)
# Batches that fail one after another before the server calls itself ill, and for how long it does.
# Requests may be to blame, and only others can show that: so it has to ask for some again.
_MAX_FAILURES = 3
_ILL_SECONDS = 30.0


class Engine:
    """Decodes jobs in a thread of its own; all methods may be called by any thread.

    Args:
        model: used by nobody else meanwhile.
        limits: how much is taken on.
        codec: text and ids.
        metrics: told what happens.
    """

    def __init__(self, model: Llada, limits: Limits, codec: TextCodec, metrics: Metrics) -> None:
        self._limits = limits
        self._scheduler = Scheduler(model, limits, codec, metrics)
        self._changed = threading.Condition()
        self._arrived: list[Job] = []
        self._open: set[Job] = set()
        self._cancelled = False
        self._accepting = True
        self._closing = False
        self._thread: threading.Thread | None = None
        metrics.watch(self)

    @property
    def num_waiting(self) -> int:
        return len(self._arrived) + len(self._scheduler.waiting)

    @property
    def num_open(self) -> int:
        """Sequences whose clients still wait, or read."""
        return len(self._open)

    @property
    def num_running(self) -> int:
        return self._scheduler.num_running

    @property
    def num_lanes(self) -> int:
        return len(self._scheduler.lanes)

    @property
    def problem(self) -> str | None:
        """Why a load balancer should send requests elsewhere; None: nothing is wrong."""
        if not self._accepting:
            return "shutting down"
        if not self._alive:
            return "the engine is not running"
        failures, last_failure = self._scheduler.failures, self._scheduler.last_failure
        if failures >= _MAX_FAILURES and time.monotonic() < last_failure + _ILL_SECONDS:
            return f"the last {failures} batches failed"
        return None

    def warm_up(self, settings: LaneSettings) -> None:
        """Before :meth:`start`: opens the lane that most requests use.

        Raises:
            MemoryError, ValueError: the lane can not be.
        """
        self._scheduler.open(settings)

    def start(self) -> None:
        """Begins to decode; again after :meth:`close`.

        Raises:
            RuntimeError: it has begun.
        """
        if self._alive:
            raise RuntimeError("the engine is running; an app serves once at a time")
        self._accepting, self._closing = True, False
        self._thread = threading.Thread(target=self._run, name="dlmcache-engine", daemon=True)
        self._thread.start()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Takes all of these jobs, or none.

        Raises:
            ApiError: 429, the queue is full; 503, the server is shutting down.
        """
        with self._changed:
            if not self._accepting:
                raise shutting_down()
            if not self._alive:
                raise ApiError(503, "the engine is not running", code="not_running")
            free = max(0, self._limits.num_slots - self.num_running)
            room = self._limits.max_queue + free - self.num_waiting
            if len(jobs) > room:
                raise ApiError(
                    429,
                    f"the queue is full: {self.num_waiting} sequences wait and at most "
                    f"{self._limits.max_queue} may; try again later",
                    code="queue_full",
                )
            self._arrived.extend(jobs)
            self._open.update(jobs)
            self._changed.notify()

    def cancel(self, jobs: Sequence[Job]) -> None:
        """Nobody waits for these any more; those that have ended do not mind."""
        for job in jobs:
            job.cancelled = True
        with self._changed:
            self._open.difference_update(jobs)
            self._cancelled = True
            self._changed.notify()

    def stop_accepting(self) -> None:
        """What is there is decoded; :meth:`submit` refuses more."""
        # No lock: a signal handler may interrupt a thread that holds it.
        self._accepting = False

    def end_jobs(self) -> None:
        """Ends with 503 what is left, at once: a step may take long."""
        self.stop_accepting()
        with self._changed:
            for job in self._open:
                job.cancelled = True
                job.fail(shutting_down())
            self._cancelled = True
            self._changed.notify()

    def close(self) -> None:
        """Ends the thread, and with 503 what is left."""
        self.end_jobs()
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._alive:
            self._thread.join()

    @property
    def _alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _run(self) -> None:
        while True:
            try:
                if not self._take():
                    break
                self._scheduler.work()
            except Exception as error:
                _log.exception("the engine failed; all requests are answered with 500")
                self._scheduler.fail_all(ApiError(500, f"the engine failed: {error}"))
        self._scheduler.fail_all(shutting_down())

    def _take(self) -> bool:
        """Waits for something to do; False: close."""
        with self._changed:
            while not (self._closing or self._arrived or self._cancelled):
                if not self._scheduler.idle:
                    break
                self._changed.wait(timeout=1.0)
                self._scheduler.close_idle_lanes()
            arrived, self._arrived = self._arrived, []
            self._scheduler.enqueue(arrived)
            self._cancelled = False
            return not self._closing
