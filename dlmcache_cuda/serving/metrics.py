"""What Prometheus is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from dlmcache_cuda.serving.engine import Engine

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_STEP_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)


class Metrics:
    """The metrics of one server, in a registry of its own."""

    def __init__(self, num_slots: int, max_lanes: int) -> None:
        self._registry = CollectorRegistry()
        where = {"registry": self._registry}
        self._requests = Counter(
            "dlmcache_requests", "Requests answered.", ("endpoint", "status"), **where
        )
        self._request_seconds = Histogram(
            "dlmcache_request_seconds",
            "From the request to the last byte of the answer.",
            ("endpoint",),
            buckets=_SECONDS,
            **where,
        )
        self._queue_seconds = Histogram(
            "dlmcache_queue_seconds", "Waiting for a slot.", buckets=_SECONDS, **where
        )
        self._step_seconds = Histogram(
            "dlmcache_step_seconds",
            "One forward and commit of a lane.",
            buckets=_STEP_SECONDS,
            **where,
        )
        self._prompt_tokens = Counter(
            "dlmcache_prompt_tokens", "Prompt tokens of answers.", **where
        )
        self._completion_tokens = Counter(
            "dlmcache_completion_tokens", "Tokens of answers.", **where
        )
        self._sequences = Counter("dlmcache_sequences", "Sequences decoded to their end.", **where)
        self._forwards = Counter("dlmcache_forwards", "Calls of the network.", **where)
        self._sequence_forwards = Counter(
            "dlmcache_sequence_forwards", "Steps, summed over sequences.", **where
        )
        self._in_progress = Gauge(
            "dlmcache_requests_in_progress", "Completion requests being answered.", **where
        )
        self._queue_length = Gauge(
            "dlmcache_queue_length", "Sequences that wait for a slot.", **where
        )
        self._slots_in_use = Gauge("dlmcache_slots_in_use", "Sequences in flight.", **where)
        self._lanes = Gauge("dlmcache_lanes", "Decode settings being served.", **where)
        slots = Gauge("dlmcache_slots", "Slots of a lane.", **where)
        slots.set(num_slots)
        most = Gauge("dlmcache_max_lanes", "Lanes at most.", **where)
        most.set(max_lanes)

    def watch(self, engine: Engine) -> None:
        """Reads the engine's state whenever it is asked for."""
        self._queue_length.set_function(lambda: engine.num_waiting)
        self._slots_in_use.set_function(lambda: engine.num_running)
        self._lanes.set_function(lambda: engine.num_lanes)

    def requested(self, endpoint: str, status: int, seconds: float) -> None:
        """A request was answered; 499 where the client left before."""
        self._requests.labels(endpoint, str(status)).inc()
        self._request_seconds.labels(endpoint).observe(seconds)

    def in_progress(self, number: int) -> None:
        self._in_progress.set(number)

    def admitted(self, seconds: float) -> None:
        """A sequence got a slot after so long."""
        self._queue_seconds.observe(seconds)

    def stepped(self, seconds: float, num_sequences: int) -> None:
        self._step_seconds.observe(seconds)
        self._forwards.inc()
        self._sequence_forwards.inc(num_sequences)

    def answered(self, prompt_tokens: int, completion_tokens: int) -> None:
        """A sequence ended."""
        self._sequences.inc()
        self._prompt_tokens.inc(prompt_tokens)
        self._completion_tokens.inc(completion_tokens)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self._registry)
