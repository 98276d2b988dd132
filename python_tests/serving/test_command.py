"""dlmcache serve as a process: starts, serves, ends in order."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.request

import pytest

from dlmcache_cuda.cli.main import main
from dlmcache_cuda.serving import bind

from .conftest import wait_for

COMMAND = [sys.executable, "-m", "dlmcache_cuda", "serve", "--device", "cpu", "--port", "0"]


def test_process_ends_in_order_when_asked_to():
    process = subprocess.Popen(
        [*COMMAND, "--cache", "dual", "--slots", "2"],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    lines: list[str] = []
    reader = threading.Thread(target=lambda: lines.extend(process.stderr))
    try:
        first = process.stderr.readline()
        assert "2 slots, prompts of up to 256 tokens, answers of up to 256" in first
        reader.start()
        wait_for(lambda: any("API at" in line for line in lines), 30)
        url = re.search(r"http://[\d.:]+", "".join(lines)).group()
        body = {"prompt": "Q:", "max_tokens": 64, "logits_eos_inf": True, "steps": 64}
        request = urllib.request.Request(f"{url}/v1/completions", json.dumps(body).encode())
        answers = []
        asking = threading.Thread(
            target=lambda: answers.append(json.load(urllib.request.urlopen(request, timeout=30)))
        )
        asking.start()

        def running() -> bool:
            health = json.load(urllib.request.urlopen(f"{url}/health", timeout=10))
            return health["sequences_running"] == 1

        wait_for(running)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
        asking.join()
        assert answers[0]["choices"][0]["finish_reason"] == "length"
        assert answers[0]["choices"][0]["forwards"] == 64
    finally:
        process.kill()
        process.wait()
        if reader.ident is not None:
            reader.join()
        process.stderr.close()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--slots", "0"], "num_slots must be at least 1, got 0"),
        (["--max-prompt-length", "500", "--max-gen-length", "100"], "at most 512 together"),
        (["--threshold", "3"], "threshold must be a number in (0, 1]"),
        (["--cache", "dul"], "Did you mean 'dual'?"),
        (["--gen-length", "128", "--steps", "7"], "steps must be a multiple"),
        (["--model", "nowhere/at/all"], "does not exist"),
        (["--log-level", "loud"], "invalid choice: 'loud'"),
        (["--port", "99999"], "--port must be in [0, 65535], got 99999"),
        (["--api-key", ""], "--api-key and DLMCACHE_API_KEY must not be empty"),
        (["--shutdown-seconds", "-1"], "--shutdown-seconds must be at least 0, got -1"),
    ],
)
def test_wrong_options_end_it_before_it_serves(options, message, capsys):
    try:
        status = main(["serve", "--device", "cpu", *options])
    except SystemExit as exit:
        status = exit.code
    assert status == 2
    assert message in capsys.readouterr().err


def test_port_that_is_taken(capsys):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert main(["serve", "--device", "cpu", "--port", str(port)]) == 1
    assert f"cannot listen on 127.0.0.1:{port}" in capsys.readouterr().err


def test_two_servers_of_one_port(capsys):
    """Neither answers yet: the second is told before it reads its model."""
    with bind("127.0.0.1", 0) as first:
        port = first.getsockname()[1]
        assert main(["serve", "--model", "nowhere/at/all", "--port", str(port)]) == 1
    error = capsys.readouterr().err
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in error
