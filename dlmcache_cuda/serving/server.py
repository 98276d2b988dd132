"""Running the application until somebody ends it."""

from __future__ import annotations

import socket

import uvicorn
from fastapi import FastAPI


class Server(uvicorn.Server):
    """Finishes what it began: after a signal new requests get 503 and running ones their answer.

    A second signal ends it at once. uvicorn's own handler would raise the signal again at the end,
    so that an orderly shutdown looked like a crash.
    """

    def handle_exit(self, sig, frame) -> None:
        self.config.app.state.engine.stop_accepting()
        self.force_exit = self.should_exit
        self.should_exit = True


def serve(
    app: FastAPI,
    *,
    host: str,
    port: int,
    shutdown_seconds: int,
    log_level: str = "info",
) -> None:
    """Serves until SIGINT or SIGTERM.

    Args:
        app: from :func:`dlmcache_cuda.serving.create_app`.
        port: 0 takes a free one.
        shutdown_seconds: how long running requests may take after the signal.

    Raises:
        OSError: the address is taken or not allowed.
    """
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        log_level=log_level,
        timeout_graceful_shutdown=shutdown_seconds,
        server_header=False,
    )
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise OSError(f"cannot listen on {host}:{port}: {error.strerror}") from error
        Server(config).run(sockets=[listener])
