"""Who decodes next: a queue, and lanes that sequences of equal settings share."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterable

import torch

from dlmcache_cuda.model import Llada
from dlmcache_cuda.serving.decode_settings import LaneSettings
from dlmcache_cuda.serving.errors import ApiError
from dlmcache_cuda.serving.job import Job
from dlmcache_cuda.serving.lane import Lane
from dlmcache_cuda.serving.limits import Limits
from dlmcache_cuda.serving.metrics import Metrics
from dlmcache_cuda.serving.text_codec import TextCodec

_log = logging.getLogger(__name__)
_NO_MEMORY = (MemoryError, torch.OutOfMemoryError)


class Scheduler:
    """Belongs to the engine's thread.

    Jobs are served in the order in which they came, except that those whose lane is full let others
    pass. Lanes take turns, a step each. When all lanes are taken and the oldest job needs another
    one, the lane that has admitted nobody for longest admits nobody any more: it runs empty and
    makes room, so that no settings wait for ever.
    """

    def __init__(self, model: Llada, limits: Limits, codec: TextCodec, metrics: Metrics) -> None:
        self._model = model
        self._limits = limits
        self._codec = codec
        self._metrics = metrics
        self._max_lanes = limits.max_lanes
        self._admissions = 0
        self.waiting: deque[Job] = deque()
        self.lanes: dict[LaneSettings, Lane] = {}
        self.failures = 0
        """Lanes that failed since one made a step."""
        self.last_failure = 0.0
        """When the last one did, by ``time.monotonic()``."""

    @property
    def num_running(self) -> int:
        return sum(lane.num_running for lane in tuple(self.lanes.values()))

    @property
    def idle(self) -> bool:
        return not self.waiting and all(lane.idle for lane in self.lanes.values())

    def open(self, settings: LaneSettings) -> Lane:
        """A new lane.

        Raises:
            MemoryError, torch.OutOfMemoryError: there is no room for it.
        """
        lane = Lane(self._model, settings, self._limits, self._codec, self._metrics)
        self.lanes[settings] = lane
        return lane

    def enqueue(self, jobs: Iterable[Job]) -> None:
        self.waiting.extend(jobs)

    def work(self) -> None:
        """Lets jobs leave and join, then one step of every lane that has some."""
        self._drop_cancelled()
        self._admit()
        for lane in list(self.lanes.values()):
            if not lane.idle:
                self._step(lane)
        self.close_idle_lanes()

    def close_idle_lanes(self) -> None:
        """Gives back the memory of lanes that nobody has used for a while."""
        oldest = time.monotonic() - self._limits.lane_idle_seconds
        for settings, lane in list(self.lanes.items()):
            if lane.idle and lane.last_used <= oldest:
                del self.lanes[settings]

    def fail_all(self, error: ApiError) -> None:
        """Ends everything that waits or runs."""
        for job in self.waiting:
            job.fail(error)
        self.waiting.clear()
        for lane in self.lanes.values():
            lane.fail(error)
        self.lanes.clear()

    def _drop_cancelled(self) -> None:
        if any(job.cancelled for job in self.waiting):
            # Not a new deque: the engine's callers look at the length of this one.
            for job in [job for job in self.waiting if job.cancelled]:
                self.waiting.remove(job)
        for lane in self.lanes.values():
            lane.drop_cancelled()

    def _admit(self) -> None:
        closing: Lane | None = None
        for job in list(self.waiting):
            try:
                lane = self._lane(job.settings)
            except Exception as error:
                self.waiting.remove(job)
                job.fail(_lane_error(error))
                continue
            if lane is None:
                if closing is None:
                    closing = min(self.lanes.values(), key=lambda lane: lane.last_admission)
            elif lane is not closing and lane.has_free_slot:
                self.waiting.remove(job)
                self._enter(lane, job)

    def _enter(self, lane: Lane, job: Job) -> None:
        self._admissions += 1
        try:
            lane.add(job, self._admissions)
        except Exception as error:
            _log.exception("a sequence could not enter its slot")
            job.fail(ApiError(500, f"the sequence could not be started: {error}"))
            return
        self._metrics.admitted(time.monotonic() - job.created)

    def _lane(self, settings: LaneSettings) -> Lane | None:
        """The lane of these settings, opened if there is room for one."""
        lane = self.lanes.get(settings)
        if lane is not None:
            return lane
        while True:
            if len(self.lanes) >= self._max_lanes and not self._close_an_idle_lane():
                return None
            try:
                return self.open(settings)
            except _NO_MEMORY:
                if not self.lanes:
                    raise
                self._max_lanes = len(self.lanes)
                _log.warning("memory holds no more than %d lanes", self._max_lanes)

    def _close_an_idle_lane(self) -> bool:
        idle = [lane for lane in self.lanes.values() if lane.idle]
        if idle:
            del self.lanes[min(idle, key=lambda lane: lane.last_used).settings]
        return bool(idle)

    def _step(self, lane: Lane) -> None:
        try:
            lane.step()
        except Exception as error:
            # A decoder can not go on after an error; others are not concerned.
            _log.exception("a batch failed; its requests are answered with 500")
            del self.lanes[lane.settings]
            lane.fail(ApiError(500, f"decoding failed: {error}", code="decoding_failed"))
            self.last_failure = time.monotonic()
            self.failures += 1
            return
        self.failures = 0


def _lane_error(error: Exception) -> ApiError:
    if isinstance(error, _NO_MEMORY):
        return ApiError(503, f"not enough memory: {error}", code="out_of_memory")
    if isinstance(error, (ValueError, TypeError)):
        return ApiError(400, str(error))
    _log.error("a lane could not be opened", exc_info=error)
    return ApiError(500, f"decoding could not start: {error}", code="decoding_failed")
