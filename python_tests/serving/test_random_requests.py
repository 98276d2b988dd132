"""Requests of random fields, half of them with random values: no request brings a batch down."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import dlmcache_cuda

from .conftest import chat

RIGHT = {
    "max_tokens": [1, 5, 32, 40],
    "n": [1, 2],
    "seed": [0, 7],
    "stop": ["boat", ["#2", "at"]],
    "temperature": [0, 0.5, 1],
    "top_p": [0.5, 1],
    "cache": [*dlmcache_cuda.available_policies(), {"name": "elastic", "window_length": 4}],
    "threshold": [0.5, 0.9],
    "factor": [1.0],
    "steps": [1, 2, 8, 32],
    "block_length": [1, 8, 32],
    "cfg_scale": [0, 1.5],
    "remasking": ["low_confidence", "random", "random_order"],
    "alg": ["origin", "maskgit_plus", "entropy", "topk_margin"],
    "alg_temp": [0, 0.5],
    "top_k": [3],
    "min_commit": [1],
    "logits_eos_inf": [True, False],
    "confidence_eos_eot_inf": [True],
    "user": ["somebody"],
}
ANY = [None, True, -1, 0, 1e308, 1e-300, 2**70, "", "x", "\x00", [], {}, [[]], [None], {"a": {}}]


def test_no_request_brings_a_batch_down(server):
    def ask(seed: int) -> int:
        chance = random.Random(seed)
        path, body = chance.choice(
            [
                ("/v1/completions", {"prompt": chance.choice(["start boat", [5, 6], ["a", "Q:"]])}),
                ("/v1/chat/completions", {"messages": chat("start boat")}),
            ]
        )
        for name in chance.sample(sorted(RIGHT), chance.randint(0, 3)):
            body[name] = chance.choice(RIGHT[name] if chance.random() < 0.85 else ANY)
        status, content = server.post(path, body)
        assert status in (200, 400), f"{path} {body}: {status} {content}"
        return status

    with ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(ask, range(80)))
    assert min(statuses.count(200), statuses.count(400)) >= 20
    assert server.engine.problem is None
    server.wait_until_empty()
