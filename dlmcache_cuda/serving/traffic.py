"""Counting requests, and refusing those that are too many."""

from __future__ import annotations

import asyncio
import time

from dlmcache_cuda.serving.delivery import CLIENT_LEFT
from dlmcache_cuda.serving.errors import ApiError, shutting_down
from dlmcache_cuda.serving.metrics import Metrics

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
_ENDPOINTS = (COMPLETIONS, CHAT, "/v1/models", "/health", "/metrics")


class Traffic:
    """ASGI middleware; plain, since Starlette's base class hides from handlers that a client left.

    Args:
        max_connections: completions being answered at once; 429 beyond.
    """

    def __init__(self, app, metrics: Metrics, max_connections: int) -> None:
        self._app = app
        self._metrics = metrics
        self._max_connections = max_connections
        self._connections = 0

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        # Names that clients make up must not become metrics.
        endpoint = scope["path"] if scope["path"] in _ENDPOINTS else "other"
        begin = time.monotonic()
        status = CLIENT_LEFT

        async def send_and_note(message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if endpoint in (COMPLETIONS, CHAT):
                await self._completion(scope, receive, send_and_note)
            else:
                await self._app(scope, receive, send_and_note)
        except asyncio.CancelledError:
            # The HTTP server ends what has not ended by itself; it would answer in plain text.
            if status == CLIENT_LEFT:
                await shutting_down().response()(scope, receive, send_and_note)
        finally:
            self._metrics.requested(endpoint, status, time.monotonic() - begin)

    async def _completion(self, scope, receive, send) -> None:
        if self._connections >= self._max_connections:
            error = ApiError(
                429,
                f"{self._connections} requests are being answered and at most "
                f"{self._max_connections} may; try again later",
                code="too_many_requests",
            )
            await error.response()(scope, receive, send)
            return
        self._count(1)
        try:
            await self._app(scope, receive, send)
        finally:
            self._count(-1)

    def _count(self, change: int) -> None:
        self._connections += change
        self._metrics.in_progress(self._connections)
