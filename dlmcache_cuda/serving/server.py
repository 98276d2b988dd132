"""Running the application until somebody ends it."""

from __future__ import annotations

import logging
import math
import socket
import time
from types import FrameType

import uvicorn
from fastapi import FastAPI

# For answers that are made but not sent yet, once no request is decoded any more.
_SENDING_SECONDS = 5


class Server(uvicorn.Server):
    """Finishes what it began: after a signal new requests get 503 and running ones their answer.

    What is left after ``shutdown_seconds``, or at a second signal, gets 503 too; a third one ends
    the process at once. uvicorn's own handler would raise the signal again at the end, so that an
    orderly shutdown looked like a crash; and it would cut clients off without a word.
    """

    def __init__(self, app: FastAPI, *, shutdown_seconds: int, log_level: str) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_level=log_level,
                timeout_graceful_shutdown=_SENDING_SECONDS,
                server_header=False,
            )
        )
        self._engine = app.state.engine
        self._shutdown_seconds = shutdown_seconds
        self._num_signals = 0
        self._end = math.inf

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            host, port = listener.getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            logging.getLogger("uvicorn.error").info("OpenAI's API at http://%s:%d/v1", shown, port)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self._engine.stop_accepting()
        self._num_signals += 1
        if self._num_signals == 1:
            self._end = time.monotonic() + self._shutdown_seconds
        elif self._num_signals == 2:
            self._end = 0.0
        else:
            self.force_exit = True
        self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        # uvicorn's shutdown begins with closing the port; before that, new requests get their 503.
        if not await super().on_tick(counter):
            return False
        waited_long_enough = self.force_exit or time.monotonic() >= self._end
        return waited_long_enough or not self._engine.num_open

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._engine.end_jobs()
        await super().shutdown(sockets)


def bind(host: str, port: int) -> socket.socket:
    """A socket for :func:`serve`, which closes it; port 0 takes a free one.

    It listens already, since a port that is bound but not listened at can be bound by others too:
    clients that come before :func:`serve` wait for it.

    Raises:
        OSError: the address is taken or not allowed.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise OSError(f"cannot listen on {host}:{port}: {error.strerror}") from error
    return listener


def serve(
    app: FastAPI,
    listener: socket.socket,
    *,
    shutdown_seconds: int = 30,
    log_level: str = "info",
) -> None:
    """Serves until SIGINT or SIGTERM.

    Args:
        app: from :func:`dlmcache_cuda.serving.create_app`.
        listener: from :func:`bind`.
        shutdown_seconds: how long running requests may take after the signal.
        log_level: of uvicorn.
    """
    with listener:
        Server(app, shutdown_seconds=shutdown_seconds, log_level=log_level).run(sockets=[listener])
