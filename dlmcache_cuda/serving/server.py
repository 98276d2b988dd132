"""Running the application until somebody ends it."""

from __future__ import annotations

import logging
import socket
from types import FrameType

import uvicorn
from fastapi import FastAPI


class Server(uvicorn.Server):
    """Finishes what it began: after a signal new requests get 503 and running ones their answer.

    A second signal ends it at once. uvicorn's own handler would raise the signal again at the end,
    so that an orderly shutdown looked like a crash.
    """

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        for listener in sockets or ():
            host, port = listener.getsockname()[:2]
            shown = f"[{host}]" if ":" in host else host
            logging.getLogger("uvicorn.error").info("OpenAI's API at http://%s:%d/v1", shown, port)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        self.config.app.state.engine.stop_accepting()
        self.force_exit = self.should_exit
        self.should_exit = True


def bind(host: str, port: int) -> socket.socket:
    """A socket for :func:`serve`, which closes it; port 0 takes a free one.

    Raises:
        OSError: the address is taken or not allowed.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
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
    config = uvicorn.Config(
        app,
        log_level=log_level,
        timeout_graceful_shutdown=shutdown_seconds,
        server_header=False,
    )
    with listener:
        Server(config).run(sockets=[listener])
