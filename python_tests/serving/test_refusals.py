"""Bad requests: a status, the field, what came and what is allowed."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import socket
import time

import openai
import pytest

import dlmcache_cuda
from dlmcache_cuda.assets import tiny_llada_path
from dlmcache_cuda.serving import Limits, ServerDefaults, create_app

from .conftest import LIMITS, SETTINGS, chat, run_server

GOOD = {"model": "tiny_llada", "prompt": "Q:", "max_tokens": 4}

# What is changed, the field that is blamed, a piece of the message.
WRONG = [
    ({"prompt": None}, "prompt", "prompt"),
    ({"prompt": ""}, "prompt", "no tokens"),
    ({"prompt": []}, "prompt", "empty"),
    ({"prompt": [[]]}, "prompt", "no tokens"),
    ({"prompt": [5, 100000]}, "prompt", "0 to 95"),
    ({"prompt": [5, -1]}, "prompt", "-1"),
    ({"prompt": [5, 10**30]}, "prompt", "prompt holds a number of 100 bits: no token id"),
    ({"prompt": [1]}, "prompt", "mask token"),
    ({"prompt": [True]}, "prompt", "prompt"),
    ({"prompt": {"a": 1}}, "prompt", "valid string"),
    ({"prompt": "Q: " * 300}, "prompt", "at most 256 tokens"),
    ({"prompt": ["Q:"] * 17}, "n", "at most 16"),
    ({"n": 17}, "n", "at most 16"),
    ({"n": 0}, "n", "greater than or equal to 1"),
    ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
    ({"max_tokens": "many"}, "max_tokens", "'many'"),
    ({"max_tokens": 257}, "max_tokens", "at most 256"),
    ({"max_tokens": 10**40}, "max_tokens", "at most 256"),
    ({"max_tokens": 200, "block_length": 150}, "max_tokens", "300 in whole blocks"),
    ({"temperature": -0.1}, "temperature", "-0.1"),
    ({"temperature": "hot"}, "temperature", "'hot'"),
    ({"top_p": 0.5}, "top_p", "belongs to alg"),
    ({"top_p": 0}, "top_p", "greater than 0"),
    ({"seed": -1}, "seed", "-1"),
    ({"seed": 2**63}, "seed", "less than"),
    ({"seed": 1.5}, "seed", "1.5"),
    ({"stop": [""]}, "stop", "at least 1 character"),
    ({"stop": ["x"] * 17}, "stop", "at most 16"),
    ({"stop": 5}, "stop", "5"),
    ({"stream": "yes"}, "stream", "'yes'"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "stream=true"),
    ({"draft": True}, "draft", "stream=true"),
    ({"cache": "dul"}, "cache", "Did you mean 'dual'"),
    ({"cache": "settings.json"}, "cache", "must be one of"),
    ({"cache": {"gamma": 1}}, "cache", "name"),
    ({"cache": {"name": "elastic", "track_num": 10**6}}, "cache", "at most 512 here"),
    ({"cache": {"name": "d2", "current_k": 10**30}}, "cache", "at most 512 here"),
    ({"alg": "entropy", "temperature": 1, "top_k": 97}, "top_k", "at most 96"),
    ({"alg": "entropy", "min_commit": 10**30}, "min_commit", "at most 512"),
    ({"cfg_scale": 1e38}, "cfg_scale", "less than or equal to 100"),
    ({"cache": "pyproject.json"}, "cache", "must be one of none"),
    ({"cache": {"name": "/etc/settings.json"}}, "cache", "must be one of none"),
    ({"cache": {"name": "elastic", "gama": 1}}, "cache", "gamma"),
    ({"cache": {"name": "elastic", "gamma": "high"}}, "cache", "gamma"),
    ({"cache": {"name": "spa", "layer_ratios": [{}]}}, "cache", "layer_ratios"),
    ({"threshold": 2}, "threshold", "(0, 1]"),
    ({"threshold": 0.9, "factor": 1.0}, "threshold", "exclude"),
    ({"block_length": 0}, "block_length", "got 0"),
    ({"block_length": -1}, "block_length", "got -1"),
    ({"block_length": 257}, "block_length", "at most 256 here, the longest answer, got 257"),
    ({"block_length": 10**30, "steps": 4}, "block_length", "at most 256"),
    ({"steps": 0}, "steps", "got 0"),
    ({"steps": 64, "max_tokens": 32}, "steps", "at most"),
    ({"steps": 3, "max_tokens": 64}, "steps", "multiple"),
    ({"remasking": "perhaps"}, "remasking", "low_confidence"),
    ({"alg": "best"}, "alg", "entropy"),
    ({"top_k": 3}, "top_k", "belongs to alg"),
    ({"logprobs": 5}, "logprobs", "not supported"),
    ({"logprobs": 0}, "logprobs", "not supported"),
    ({"best_of": 0}, "best_of", "not supported"),
    ({"echo": True}, "echo", "not supported"),
    ({"suffix": "end"}, "suffix", "not supported"),
    ({"best_of": 3}, "best_of", "not supported"),
    ({"presence_penalty": 0.5}, "presence_penalty", "not supported"),
    ({"logit_bias": {"5": 1}}, "logit_bias", "not supported"),
    ({"max_token": 5}, "max_token", "Did you mean 'max_tokens'"),
]


@pytest.mark.parametrize(("change", "param", "message"), WRONG, ids=lambda value: str(value)[:40])
def test_wrong_completion_names_the_field(server, change, param, message):
    status, content = server.post("/v1/completions", GOOD | change)
    error = content["error"]
    assert status == 400, content
    assert error["param"] == param
    assert message in error["message"]
    assert error["type"] == "invalid_request_error"


@pytest.mark.parametrize("num_words", [300, 600])  # more than the server's limit; the model's too
def test_prompt_that_is_too_long_has_a_code(server, num_words):
    status, content = server.post("/v1/completions", GOOD | {"prompt": [5] * num_words})
    assert (status, content["error"]["code"]) == (400, "context_length_exceeded")
    assert f"at most 256 tokens, got {num_words}" in content["error"]["message"]
    status, content = server.post(
        "/v1/chat/completions", {"messages": chat("Q: " * num_words), "max_tokens": 4}
    )
    assert (status, content["error"]["code"]) == (400, "context_length_exceeded")


def test_what_asks_for_nothing_is_taken(server):
    neutral = {"logit_bias": {}, "frequency_penalty": 0, "best_of": 1, "echo": False, "suffix": ""}
    assert server.post("/v1/completions", GOOD | neutral)[0] == 200
    body = {"messages": chat("Q:"), "max_tokens": 4, "logprobs": False, "tools": []}
    assert server.post("/v1/chat/completions", body)[0] == 200


@pytest.mark.parametrize(
    ("change", "param", "message"),
    [
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": [{"role": "user"}]}, "messages", "content"),
        ({"messages": [{"role": "user", "content": None}]}, "messages", "None"),
        ({"messages": [{"role": "system", "content": "x"}]}, "messages", "only user and assistant"),
        (
            {"messages": chat([{"type": "image_url", "image_url": {"url": "x"}}])},
            "messages",
            "'text'",
        ),
        ({"messages": chat("Q:"), "tools": [{"type": "function"}]}, "tools", "not supported"),
        (
            {"messages": chat("Q:"), "response_format": {"type": "json_object"}},
            "response_format",
            "not supported",
        ),
        (
            {"messages": chat("Q:"), "max_tokens": 5, "max_completion_tokens": 6},
            "max_tokens",
            "differ",
        ),
    ],
)
def test_wrong_chat_names_the_field(server, change, param, message):
    status, content = server.post("/v1/chat/completions", {"model": "tiny_llada"} | change)
    assert status == 400, content
    assert content["error"]["param"] == param
    assert message in content["error"]["message"]


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"null", b'"text"', b"\xff\xfe", b'{"prompt": "\\ud800"}', b"[" * 100000],
    ids=lambda body: repr(body[:12]),
)
def test_body_that_is_no_request(server, body):
    status, content = server.post("/v1/completions", body)
    assert status == 400
    assert content["error"]["message"]


def test_nan_is_no_number(server):
    body = json.dumps(GOOD | {"temperature": float("nan")}).encode()
    assert server.post("/v1/completions", body)[0] == 400


def test_other_model_is_not_found(server):
    with pytest.raises(openai.NotFoundError, match="tiny_llada"):
        server.client().completions.create(model="gpt-4", prompt="Q:")
    with pytest.raises(openai.NotFoundError):
        server.client().models.retrieve("gpt-4")


def test_unknown_paths_and_methods_have_errors_of_the_same_form(server):
    status, content = server.post("/v1/embeddings", {})
    assert status == 404 and "/v1/embeddings" in content["error"]["message"]
    status, content = server.post("/health", {})
    assert status == 405 and content["error"]["message"]


def test_body_that_is_too_long(server):
    status, content = server.post("/v1/completions", b" " * (LIMITS.max_body_bytes + 1))
    assert status == 413
    assert str(LIMITS.max_body_bytes) in content["error"]["message"]


def test_body_without_length_that_is_too_long(server):
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        piece = b" " * 65536
        for _ in range(LIMITS.max_body_bytes // len(piece) + 1):
            connection.sendall(b"%x\r\n%s\r\n" % (len(piece), piece))
        assert b" 413 " in connection.recv(4096).splitlines()[0]


def test_body_that_never_comes(server):
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{"
        )
        begin = time.monotonic()
        assert b" 408 " in connection.recv(4096).splitlines()[0]
        assert time.monotonic() - begin < 5


def test_key_is_asked_for(model):
    with run_server(model, api_key="secret") as server:
        for key in ("wrong", "secre", "secrets"):
            with pytest.raises(openai.AuthenticationError):
                server.client(api_key=key).models.list()
        assert server.client(api_key="secret").models.list().data
        assert "ok" in server.get("/health"), "health needs no key"


def test_checkpoint_without_a_chat_template_or_tokenizer(tmp_path):
    for path in tiny_llada_path().iterdir():
        if path.name != "chat_template.jinja":
            shutil.copy(path, tmp_path)
    model = dlmcache_cuda.load(tmp_path, device="cpu")
    with run_server(model) as server:
        status, content = server.post("/v1/chat/completions", {"messages": chat("Q:")})
        assert (status, content["error"]["code"]) == (400, "no_chat_template")
        assert "/v1/completions" in content["error"]["message"]
    for path in tmp_path.glob("tokenizer*"):
        path.unlink()
    with (
        pytest.raises(FileNotFoundError, match="needs a checkpoint with a tokenizer"),
        run_server(dlmcache_cuda.load(tmp_path, device="cpu")),
    ):
        pass


def test_fixed_settings_can_not_be_changed(model):
    with run_server(model, fixed=True) as server:
        status, content = server.post("/v1/completions", GOOD | {"cache": "none"})
        assert status == 400 and content["error"]["param"] == "cache"
        assert server.post("/v1/completions", GOOD | {"temperature": 0.5})[0] == 200


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"api_key": ""}, "api_key must not be empty"),
        (
            {"defaults": ServerDefaults(SETTINGS, max_tokens=257)},
            "max_tokens of the defaults must be in [1, 256], the whole blocks in max_gen_length "
            "(256), got 257",
        ),
        ({"defaults": ServerDefaults(SETTINGS, max_tokens=0)}, "must be in [1, 256]"),
        (
            {"limits": dataclasses.replace(LIMITS, max_gen_length=16)},
            "block_length of the defaults must be at most max_gen_length (16), got 32",
        ),
        (
            {"limits": Limits(max_prompt_length=500, max_gen_length=100)},
            "must be at most 512 together, the model's max_sequence_length, got 500 and 100",
        ),
    ],
    ids=["key", "max_tokens", "zero", "block_length", "limits"],
)
def test_app_that_would_refuse_everybody_is_not_made(model, changes, message):
    arguments = {"defaults": ServerDefaults(SETTINGS, max_tokens=96), "limits": LIMITS} | changes
    with pytest.raises(ValueError, match=re.escape(message)):
        create_app(model, **arguments)
