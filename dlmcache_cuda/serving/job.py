"""One sequence on its way through the server, seen from both threads."""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass, field

from torch import Tensor

from dlmcache_cuda.serving.decode_settings import LaneSettings
from dlmcache_cuda.serving.errors import ApiError
from dlmcache_cuda.serving.transcript import Transcript


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is known of a sequence now.

    Attributes:
        transcript: its final text so far.
        draft: provisional text behind that; None unless asked for.
        forwards: steps so far.
        over: nothing will follow.
        error: why there is no answer.
    """

    transcript: Transcript = field(default_factory=Transcript)
    draft: str | None = None
    forwards: int = 0
    over: bool = False
    error: ApiError | None = None


class Mailbox:
    """The newest snapshot, from the engine's thread to an event loop.

    Only the newest is kept, so a client that reads slowly gets fewer and longer deltas and takes no
    memory meanwhile.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._snapshot = Snapshot()
        self._lock = threading.Lock()

    def put(self, snapshot: Snapshot) -> None:
        """Called by any thread; returns at once. Nothing follows what is over."""
        with self._lock:  # a shutdown ends jobs while a step is made
            if self._snapshot.over:
                return
            self._snapshot = snapshot
        try:
            self._loop.call_soon_threadsafe(self._changed.set)
        except RuntimeError:  # the loop is closed: nobody will read
            return

    async def newer(self) -> Snapshot:
        """The next snapshot that was not returned before."""
        await self._changed.wait()
        self._changed.clear()
        return self._snapshot

    async def last(self) -> Snapshot:
        """The snapshot after which nothing follows."""
        while not (snapshot := await self.newer()).over:
            pass
        return snapshot


@dataclass(slots=True, eq=False)
class Job:
    """A sequence that a client asked for.

    Attributes:
        prompt_ids: ``[P]`` int64, CPU.
        settings: sequences of equal settings share a lane.
        gen_length: positions to decode, whole blocks.
        max_tokens: tokens of the answer at most.
        stop: strings that end the answer.
        seed: of the sequence's random numbers.
        wants_draft: provisional text is wanted too.
        mailbox: where its client waits.
        created: when it was asked for, by ``time.monotonic()``.
        cancelled: nobody waits for it any more. Set by any thread.
    """

    prompt_ids: Tensor
    settings: LaneSettings
    gen_length: int
    max_tokens: int
    stop: tuple[str, ...]
    seed: int
    wants_draft: bool
    mailbox: Mailbox
    created: float = field(default_factory=time.monotonic)
    cancelled: bool = False

    def fail(self, error: ApiError) -> None:
        self.mailbox.put(Snapshot(over=True, error=error))
