"""A server on this machine, in a thread of the test."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
import time
import urllib.request
from collections.abc import Iterator

import pytest

import dlmcache_cuda
from dlmcache_cuda.assets.questions import make_questions

for _module in ("fastapi", "uvicorn", "prometheus_client", "openai"):
    pytest.importorskip(_module)

import openai  # noqa: E402
import uvicorn  # noqa: E402

from dlmcache_cuda.policies.fast_dllm import DualConfig  # noqa: E402
from dlmcache_cuda.serving import LaneSettings, Limits, ServerDefaults, create_app  # noqa: E402

LIMITS = Limits(num_slots=8, max_prompt_length=256, max_gen_length=256, body_seconds=0.5)
SETTINGS = LaneSettings(cache=DualConfig(), block_length=32, threshold=0.9)


@dataclasses.dataclass(frozen=True)
class Running:
    """A server that answers."""

    url: str
    model: dlmcache_cuda.Llada
    app: object

    @property
    def engine(self):
        return self.app.state.engine

    def client(self, **options) -> openai.OpenAI:
        options = {"api_key": "none", "max_retries": 0, "timeout": 30} | options
        return openai.OpenAI(base_url=f"{self.url}/v1", **options)

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            return answer.read().decode()

    def post(self, path: str, body: bytes | dict) -> tuple[int, dict]:
        """Status and content, errors included."""
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def metric(self, name: str) -> float:
        """The value of a metric, by its name with labels."""
        lines = self.get("/metrics").splitlines()
        return float(next(line.rsplit(" ", 1)[1] for line in lines if line.startswith(name + " ")))

    def wait_until_empty(self) -> None:
        """Nothing waits and nothing runs, soon."""
        wait_for(lambda: self.engine.num_running == 0 and self.engine.num_waiting == 0)


def wait_for(condition, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


@contextlib.contextmanager
def run_server(
    model, limits: Limits = LIMITS, settings: LaneSettings = SETTINGS, **options
) -> Iterator[Running]:
    fixed = options.pop("fixed", False)
    defaults = ServerDefaults(settings, max_tokens=96, fixed=fixed)
    app = create_app(model, defaults=defaults, limits=limits, **options)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_for(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield Running(f"http://127.0.0.1:{port}", model, app)
    finally:
        server.should_exit = True
        thread.join(timeout=20)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def model():
    return dlmcache_cuda.load(device="cpu")


@pytest.fixture(scope="module")
def server(model):
    with run_server(model) as running:
        yield running


@pytest.fixture(scope="session")
def questions() -> list[str]:
    return [question.prompt for question in make_questions(16, seed=3)]


def chat(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def decoded(model, prompts, **settings) -> dlmcache_cuda.DecodeOutput:
    """What decode() says, with the settings of the test's servers."""
    settings = {
        "gen_length": 96,
        "block_length": 32,
        "cache": "dual",
        "threshold": 0.9,
        "seed": 0,
    } | settings
    return dlmcache_cuda.decode(model, prompts, **settings)
