"""A running batch: sequences of equal settings, in the slots of one decoder."""

from __future__ import annotations

import time
from dataclasses import dataclass

from dlmcache_cuda.decoding import Decoder, StreamEvent
from dlmcache_cuda.model import Llada
from dlmcache_cuda.serving.decode_settings import LaneSettings
from dlmcache_cuda.serving.errors import ApiError
from dlmcache_cuda.serving.job import Job, Snapshot
from dlmcache_cuda.serving.limits import Limits
from dlmcache_cuda.serving.metrics import Metrics
from dlmcache_cuda.serving.text_codec import TextCodec
from dlmcache_cuda.serving.transcript import TranscriptWriter


@dataclass(frozen=True, slots=True)
class _Running:
    job: Job
    writer: TranscriptWriter


class Lane:
    """Jobs enter and leave between steps.

    Raises:
        MemoryError: the device has less memory than the slots need.
    """

    def __init__(
        self,
        model: Llada,
        settings: LaneSettings,
        limits: Limits,
        codec: TextCodec,
        metrics: Metrics,
    ) -> None:
        self.settings = settings
        self.last_used = time.monotonic()
        self.last_admission = 0
        self._model = model
        self._codec = codec
        self._metrics = metrics
        self._running: dict[int, _Running] = {}
        self._decoder = Decoder(
            model,
            max_length=limits.max_length,
            num_slots=limits.num_slots,
            drafts=True,
            **settings.arguments(settings.longest(limits.max_gen_length)),
        )

    @property
    def idle(self) -> bool:
        return not self._running

    @property
    def num_running(self) -> int:
        return len(self._running)

    @property
    def has_free_slot(self) -> bool:
        return self._decoder.has_free_slot

    def add(self, job: Job, admission: int) -> None:
        """Puts a job into a free slot; ``admission`` counts all jobs that any lane was given."""
        number = self._decoder.add(job.prompt_ids, gen_length=job.gen_length, seed=job.seed)
        writer = TranscriptWriter(
            self._codec.decode, self._model.end_token_ids, job.max_tokens, job.stop
        )
        self._running[number] = _Running(job, writer)
        self.last_admission = admission

    def drop_cancelled(self) -> None:
        """Frees the slots of those whose clients have gone."""
        for number, running in list(self._running.items()):
            if running.job.cancelled:
                self._leave(number)

    def step(self) -> None:
        """One step for all; those that ended leave."""
        begin = time.monotonic()
        events = self._decoder.step()
        self.last_used = time.monotonic()
        self._metrics.stepped(self.last_used - begin, len(events))
        for event in events:
            self._tell(event)

    def fail(self, error: ApiError) -> None:
        """Ends all jobs; the lane is of no use after that."""
        for running in self._running.values():
            running.job.fail(error)
        self._running.clear()

    def _tell(self, event: StreamEvent) -> None:
        job, writer = (running := self._running[event.sequence]).job, running.writer
        over = event.finished is not None
        transcript = writer.update(self._final_ids(event), over)
        over = over or transcript.finish_reason is not None
        draft = None
        if job.wants_draft:
            draft = "" if over else self._draft(event, len(transcript.text))
        if over:
            self._leave(event.sequence)
            self._metrics.answered(job.prompt_ids.numel(), transcript.num_tokens)
        job.mailbox.put(Snapshot(transcript, draft, event.step + 1, over))

    def _leave(self, number: int) -> None:
        del self._running[number]
        if number in self._decoder.in_flight:
            self._decoder.remove(number)

    def _final_ids(self, event: StreamEvent) -> list[int]:
        """The tokens before the first mask; all tokens there will be when it is over."""
        mask = self._model.mask_token_id
        if event.finished is not None:
            return [token for token in event.finished.ids.tolist() if token != mask]
        ids = event.ids.tolist()
        return ids[: ids.index(mask)] if mask in ids else ids

    def _draft(self, event: StreamEvent, length: int) -> str:
        """What follows so many final characters for now."""
        with self._codec.lock:
            spans = event.spans
        return "".join(span.text for span in spans or ())[length:]
