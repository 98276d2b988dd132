"""Bringing answers to clients, and noticing those who left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from fastapi import Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from dlmcache_cuda.serving.answers import SSE_END, Answer, sse
from dlmcache_cuda.serving.engine import Engine
from dlmcache_cuda.serving.job import Job, Snapshot

CLIENT_LEFT = 499  # nginx's number for it


async def deliver(request: Request, engine: Engine, answer: Answer, jobs: list[Job]) -> Response:
    """The answer in one piece. Slots are free again as soon as the client leaves.

    Raises:
        ApiError: the engine's.
    """
    everything = asyncio.ensure_future(_last(jobs))
    left = asyncio.ensure_future(_client_left(request))
    try:
        await asyncio.wait((everything, left), return_when=asyncio.FIRST_COMPLETED)
        if not everything.done():
            return Response(status_code=CLIENT_LEFT)
        snapshots = everything.result()
        for snapshot in snapshots:
            if snapshot.error is not None:
                raise snapshot.error
        return JSONResponse(answer.whole(jobs, snapshots))
    finally:
        left.cancel()
        everything.cancel()
        engine.cancel(jobs)


async def _last(jobs: Sequence[Job]) -> list[Snapshot]:
    # Not gather(): one that is cancelled and never awaited again is reported as an error.
    return [await job.mailbox.last() for job in jobs]


async def _client_left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class EventStream(StreamingResponse):
    """The answer in server-sent events. Slots are free again as soon as the client leaves."""

    def __init__(self, engine: Engine, answer: Answer, jobs: list[Job], usage: bool) -> None:
        self._engine = engine
        self._jobs = jobs
        super().__init__(
            _events(answer, jobs, usage),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"},
        )

    async def __call__(self, scope, receive, send) -> None:
        # Not at the end of the generator: it is never begun if the client leaves at once.
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._engine.cancel(self._jobs)


async def _events(answer: Answer, jobs: Sequence[Job], usage: bool) -> AsyncIterator[bytes]:
    last: list[Snapshot] = [Snapshot()] * len(jobs)
    if answer.chat:
        for index in range(len(jobs)):
            yield sse(answer.opening(index))
    async for index, snapshot in _snapshots(jobs):
        if snapshot.error is not None:
            yield sse(snapshot.error.body())
            yield SSE_END
            return
        known, last[index] = last[index], snapshot
        new_text = snapshot.transcript.text[len(known.transcript.text) :]
        if new_text or snapshot.over or snapshot.draft != known.draft:
            yield sse(answer.piece(index, snapshot, new_text))
    if usage:
        yield sse(answer.closing(jobs, last))
    yield SSE_END


async def _snapshots(jobs: Sequence[Job]) -> AsyncIterator[tuple[int, Snapshot]]:
    """The news of all jobs, as they come, until all are over."""
    waiting = {asyncio.ensure_future(job.mailbox.newer()): index for index, job in enumerate(jobs)}
    try:
        while waiting:
            done, _ = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(done, key=waiting.__getitem__):
                index = waiting.pop(task)
                snapshot = task.result()
                if not snapshot.over:
                    waiting[asyncio.ensure_future(jobs[index].mailbox.newer())] = index
                yield index, snapshot
    finally:
        for task in waiting:
            task.cancel()
