"""How a server ends: what is begun is finished, and what is not gets an answer too."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import signal
import socket
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from dlmcache_cuda.serving import ServerDefaults, bind, create_app
from dlmcache_cuda.serving import server as server_module
from dlmcache_cuda.serving.lane import Lane

from .conftest import LIMITS, SETTINGS, Running, run_server, wait_for

# A step for every token, and no end before the last one.
LONG = {
    "prompt": "Q:", "max_tokens": 256, "steps": 256, "cache": "none", "logits_eos_inf": True,
}  # fmt: skip
SHORT = LONG | {"max_tokens": 32, "steps": 32}


@dataclasses.dataclass(frozen=True)
class Ending(Running):
    """A server that can be told to end."""

    server: server_module.Server
    thread: threading.Thread

    def signal(self) -> None:
        self.server.handle_exit(signal.SIGTERM, None)

    def seconds_to_end(self) -> float:
        begin = time.monotonic()
        self.thread.join(timeout=20)
        assert not self.thread.is_alive()
        return time.monotonic() - begin


@contextlib.contextmanager
def ending_server(model, shutdown_seconds: int, limits=LIMITS) -> Iterator[Ending]:
    app = create_app(model, defaults=ServerDefaults(SETTINGS, 96), limits=limits)
    server = server_module.Server(app, shutdown_seconds=shutdown_seconds, log_level="error")
    with bind("127.0.0.1", 0) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            wait_for(lambda: server.started)
            yield Ending(url, model, app, server, thread)
        finally:
            for _ in range(3):
                server.handle_exit(signal.SIGTERM, None)
            thread.join(timeout=20)
            assert not thread.is_alive()


@pytest.fixture
def slow_steps(monkeypatch):
    step = Lane.step

    def slow(lane: Lane) -> None:
        time.sleep(0.03)
        step(lane)

    monkeypatch.setattr(Lane, "step", slow)


@pytest.fixture
def errors() -> Iterator[list[logging.LogRecord]]:
    """What uvicorn and asyncio complain of."""
    records: list[logging.LogRecord] = []
    handler = logging.Handler(logging.ERROR)
    handler.emit = records.append
    loggers = [logging.getLogger(name) for name in ("uvicorn.error", "asyncio")]
    for logger in loggers:
        logger.addHandler(handler)
    yield records
    for logger in loggers:
        logger.removeHandler(handler)


def stream(server: Running, body: dict) -> list[str]:
    """The events."""
    data = json.dumps(body | {"stream": True}).encode()
    request = urllib.request.Request(f"{server.url}/v1/completions", data)
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read().decode().split("\n\n")


def health(server: Running) -> tuple[int, str]:
    try:
        return 200, json.loads(server.get("/health"))["status"]
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)["status"]


def test_requests_that_come_during_a_shutdown_get_503_and_running_ones_an_answer(
    model, slow_steps, errors
):
    with ending_server(model, 20) as server, ThreadPoolExecutor() as pool:
        running = pool.submit(server.post, "/v1/completions", SHORT)
        wait_for(lambda: server.engine.num_running)
        server.signal()
        time.sleep(0.3)  # longer than uvicorn takes to notice
        status, content = server.post("/v1/completions", SHORT)
        assert (status, content["error"]["code"]) == (503, "shutting_down")
        assert health(server) == (503, "shutting down")
        assert running.result()[0] == 200
        assert server.seconds_to_end() < 5
    assert not errors


@pytest.mark.parametrize(("shutdown_seconds", "signals"), [(1, 1), (0, 1), (30, 2)])
def test_requests_that_are_left_when_time_is_up(
    model, slow_steps, errors, shutdown_seconds, signals
):
    with ending_server(model, shutdown_seconds) as server, ThreadPoolExecutor() as pool:
        whole = pool.submit(server.post, "/v1/completions", LONG)
        events = pool.submit(stream, server, LONG)
        wait_for(lambda: server.engine.num_running == 2)
        time.sleep(0.1)
        for _ in range(signals):
            server.signal()
        status, content = whole.result()
        assert (status, content["error"]["code"]) == (503, "shutting_down")
        *_, last, done, rest = events.result()
        assert json.loads(last.removeprefix("data: "))["error"]["code"] == "shutting_down"
        assert (done, rest) == ("data: [DONE]", "")
        assert server.seconds_to_end() < 5
    assert not errors


def test_client_that_still_sends_gets_503_when_time_is_up(model, errors, monkeypatch):
    monkeypatch.setattr(server_module, "_SENDING_SECONDS", 1)
    limits = dataclasses.replace(LIMITS, body_seconds=30.0)
    with ending_server(model, 0, limits) as server:
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(
                b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{"
            )
            wait_for(lambda: server.metric("dlmcache_requests_in_progress") == 1)
            server.signal()
            answer = connection.makefile("rb").read()
        assert b" 503 " in answer.splitlines()[0]
        assert b'"shutting_down"' in answer
        assert server.seconds_to_end() < 5
    assert not [record for record in errors if record.exc_info]


def test_jobs_end_at_once_whatever_a_step_takes(model, monkeypatch):
    stepping, gate = threading.Event(), threading.Event()
    step = Lane.step

    def blocked(lane: Lane) -> None:
        stepping.set()
        gate.wait(20)
        step(lane)

    monkeypatch.setattr(Lane, "step", blocked)
    with run_server(model) as server, ThreadPoolExecutor() as pool:
        answer = pool.submit(server.post, "/v1/completions", SHORT)
        try:
            assert stepping.wait(10)
            server.engine.end_jobs()
            assert answer.result(10)[0] == 503
        finally:
            gate.set()
        server.wait_until_empty()
        assert server.engine.num_open == 0


def test_app_starts_again_after_it_ended(model):
    app = create_app(model, defaults=ServerDefaults(SETTINGS, 96), limits=LIMITS)
    engine = app.state.engine

    async def twice() -> None:
        for _ in range(2):
            async with app.router.lifespan_context(app):
                assert engine.problem is None
                with pytest.raises(RuntimeError, match="engine is running"):
                    engine.start()
            assert engine.problem is not None

    asyncio.run(twice())


def test_port_is_taken_as_soon_as_it_is_bound():
    with bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        with pytest.raises(OSError, match=rf"cannot listen on 127.0.0.1:{port}: Address already"):
            bind("127.0.0.1", port)
