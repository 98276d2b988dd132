"""Many clients at once: right ones, wrong ones, and some that leave."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor

import openai
import pytest

import dlmcache_cuda
from dlmcache_cuda.serving import engine as engine_module

from .conftest import LIMITS, SETTINGS, chat, decoded, run_server, wait_for

BROKEN = (
    {"max_tokens": 100000},
    {"max_tokens": -1},
    {"extra_body": {"cache": "nothing"}},
    {"extra_body": {"steps": "all"}},
    {"messages": []},
    {"model": "another"},
    {"stop": [""]},
)


def test_mixed_load_of_64_clients(server, questions):
    """64 at once, 7 of them broken, 6 leave in the middle; two kinds of settings, all 8 slots."""
    expected = {
        (question, threshold): decoded(server.model, chat(question), threshold=threshold).text[0]
        for question in questions[:4]
        for threshold in (0.9, 0.6)
    }
    before = server.metric("dlmcache_sequences_total")

    async def one(client, index: int) -> None:
        question, threshold = questions[index % 4], (0.9, 0.6)[index // 4 % 2]
        request = {
            "model": "tiny_llada",
            "messages": chat(question),
            "max_tokens": 96,
            "extra_body": {"threshold": threshold},
        }
        if index % 10 == 1:
            with pytest.raises((openai.BadRequestError, openai.NotFoundError)):
                await client.chat.completions.create(**request | BROKEN[index // 10])
            return
        if index % 10 == 2:
            request["extra_body"] = {"cache": "none", "steps": 96}
            stream = await client.chat.completions.create(**request, stream=True)
            async for _ in stream:
                break
            await stream.close()
            return
        if index % 2:
            answer = await client.chat.completions.create(**request)
            text = answer.choices[0].message.content
        else:
            stream = await client.chat.completions.create(**request, stream=True)
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
        assert text == expected[question, threshold]

    async def everybody() -> None:
        async with openai.AsyncOpenAI(
            base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=60
        ) as client:
            await asyncio.gather(*(one(client, index) for index in range(64)))

    asyncio.run(everybody())
    server.wait_until_empty()
    assert server.metric("dlmcache_sequences_total") - before >= 64 - 7 - 7
    assert server.metric("dlmcache_requests_in_progress") == 0
    assert server.engine.problem is None


# A step for every token, and no end before the last one.
SLOW = {
    "prompt": "Q:", "max_tokens": 256, "steps": 256, "cache": "none", "logits_eos_inf": True,
}  # fmt: skip
SHORTER = SLOW | {"max_tokens": 64, "steps": 64}


def leave(server, body: dict, after: bytes | None) -> None:
    """Sends a request and hangs up, after these bytes of the answer or as soon as it runs."""
    host, port = server.url.removeprefix("http://").split(":")
    data = json.dumps(body).encode()
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s"
            % (len(data), data)
        )
        if after is None:
            wait_for(lambda: server.engine.num_running)
            return
        received = b""
        while after not in received:
            received += connection.recv(4096)


@pytest.mark.parametrize(("stream", "after"), [(False, None), (True, b"data:"), (True, None)])
def test_clients_that_leave_free_their_slots(server, stream, after):
    ended = server.metric("dlmcache_sequences_total")
    leave(server, SLOW | {"stream": stream, "draft": stream}, after)
    server.wait_until_empty()
    assert server.metric("dlmcache_sequences_total") == ended, "it was decoded to its end"
    wait_for(lambda: server.metric("dlmcache_requests_in_progress") == 0)


def test_clients_that_leave_are_no_errors_of_the_log(server, caplog):
    leave(server, SLOW, None)
    server.wait_until_empty()
    wait_for(lambda: server.metric("dlmcache_requests_in_progress") == 0)
    gc.collect()
    assert not caplog.records


def test_clients_that_leave_while_they_wait(model):
    with run_server(model, dataclasses.replace(LIMITS, num_slots=1, max_lanes=1)) as server:
        first = threading.Thread(target=server.post, args=("/v1/completions", SHORTER))
        first.start()
        wait_for(lambda: server.engine.num_running)
        leave(server, SLOW, None)
        first.join()
        server.wait_until_empty()
        assert server.metric("dlmcache_sequences_total") == 1


def test_full_queue_is_answered_with_429_and_the_rest_is_served(model):
    limits = dataclasses.replace(LIMITS, num_slots=2, max_queue=3)
    with run_server(model, limits) as server, ThreadPoolExecutor(12) as pool:
        body = SHORTER
        answers = list(pool.map(lambda _: server.post("/v1/completions", body), range(12)))
        statuses = sorted(status for status, _ in answers)
        assert set(statuses) == {200, 429}
        # At least those that fit at first; others come when the first have gone.
        assert statuses.count(200) >= 5
        refused = next(content for status, content in answers if status == 429)
        assert refused["error"]["code"] == "queue_full"
        status, content = server.post("/v1/completions", body | {"n": 6})
        assert (status, content["error"]["param"]) == (400, "n"), "slots and queue never hold 6"
        assert "at most 5, got 1 x 6" in content["error"]["message"]
        assert (
            server.post("/v1/completions", body | {"n": 5, "max_tokens": 32, "steps": 32})[0] == 200
        )


def test_too_many_connections_are_answered_with_429(model):
    limits = dataclasses.replace(LIMITS, max_connections=1)
    with run_server(model, limits) as server:
        first = threading.Thread(target=server.post, args=("/v1/completions", SHORTER))
        first.start()
        wait_for(lambda: server.engine.num_running)
        with pytest.raises(openai.RateLimitError) as refused:
            server.client().completions.create(model="tiny_llada", prompt="Q:")
        assert refused.value.code == "too_many_requests"
        assert refused.value.response.headers["Retry-After"] == "1"
        assert "ok" in server.get("/health")
        first.join()
        assert server.post("/v1/completions", SLOW | {"max_tokens": 8, "steps": 8})[0] == 200


def test_more_settings_than_lanes_take_turns(model, questions):
    """One lane, three settings at once: none waits for ever."""
    with (
        run_server(model, dataclasses.replace(LIMITS, max_lanes=1)) as server,
        ThreadPoolExecutor(12) as pool,
    ):
        thresholds = [0.5, 0.7, 0.9] * 4
        expected = {
            threshold: decoded(server.model, questions[0], threshold=threshold).text[0]
            for threshold in thresholds
        }

        def ask(threshold: float) -> str:
            body = {"prompt": questions[0], "max_tokens": 96, "threshold": threshold}
            return server.post("/v1/completions", body)[1]["choices"][0]["text"]

        assert list(pool.map(ask, thresholds)) == [expected[value] for value in thresholds]


@pytest.fixture
def poisoned():
    """A model, and a token that makes its batches fail."""
    model = dlmcache_cuda.load(device="cpu")
    (poison,) = model.tokenizer("(t)")["input_ids"]  # a word that the questions have no use for
    model.embedding.data[poison] = float("nan")
    return model, poison


def test_server_that_is_ill_asks_for_requests_again(poisoned, monkeypatch):
    model, poison = poisoned
    with run_server(model) as server:
        for _ in range(3):
            assert server.post("/v1/completions", {"prompt": [5, poison]})[0] == 500
        assert server.engine.problem == "the last 3 batches failed"
        monkeypatch.setattr(engine_module, "_ILL_SECONDS", 0.05)
        wait_for(lambda: server.engine.problem is None, 1)
        monkeypatch.setattr(engine_module, "_ILL_SECONDS", 30.0)
        assert server.post("/v1/completions", {"prompt": [5, poison]})[0] == 500
        assert server.engine.problem == "the last 4 batches failed", "one more is enough"


def test_batch_that_fails_ends_with_500_and_the_server_goes_on(poisoned, questions):
    model, poison = poisoned
    with run_server(model) as server:
        expected = decoded(model, questions[0]).text[0]
        good = {"prompt": questions[0], "max_tokens": 96}
        for count in range(1, 4):
            status, content = server.post("/v1/completions", {"prompt": [5, poison]})
            assert status == 500
            assert "NaN" in content["error"]["message"]
            assert (server.engine.problem is None) == (count < 3)
        stream = server.client().completions.create(
            model="tiny_llada", prompt=[5, poison], stream=True
        )
        with pytest.raises(openai.APIError, match="NaN"):
            list(stream)
        answer = server.post("/v1/completions", good)[1]
        assert answer["choices"][0]["text"] == expected
        assert server.engine.problem is None, "a step was made"
        server.wait_until_empty()


def test_shutdown_refuses_new_requests_and_ends_running_ones(model):
    with run_server(model, settings=SETTINGS) as server:
        answers = []
        first = threading.Thread(
            target=lambda: answers.append(server.post("/v1/completions", SHORTER))
        )
        first.start()
        wait_for(lambda: server.engine.num_running)
        server.engine.stop_accepting()
        status, content = server.post("/v1/completions", SLOW)
        assert (status, content["error"]["code"]) == (503, "shutting_down")
        first.join()
        assert answers[0][0] == 200
    assert server.engine.problem is not None


def test_engine_that_closes_ends_what_is_left(model):
    with run_server(model) as server:
        answers = []
        first = threading.Thread(
            target=lambda: answers.append(server.post("/v1/completions", SHORTER))
        )
        first.start()
        wait_for(lambda: server.engine.num_running)
        server.engine.close()
        first.join()
        assert answers[0][0] == 503
