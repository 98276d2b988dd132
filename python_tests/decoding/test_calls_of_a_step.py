"""How often a step calls torch: on small models the host's calls are what costs beside products.

A call costs two to ten microseconds whatever it does, a cached step of the bundled model two
milliseconds in all. What works on whole layers and lists is one operator, so that the number of
calls does not depend on layers, nor, but for results, on slots.
"""

from __future__ import annotations

import statistics
from typing import Any

import pytest
from torch.utils._python_dispatch import TorchDispatchMode

import dlmcache_cuda
from dlmcache_cuda.policies.elastic import ElasticConfig
from dlmcache_cuda.testing.tiny_model import random_model

# What was counted when they were last reduced, and two or three more.
ALLOWED = {
    "none": 26,
    "prefix": 26,
    "dual": 26,
    "dkv-decode": 40,
    "dkv-greedy": 36,
    "spa": 28,
    "elastic": 60,
}


class Calls(TorchDispatchMode):
    """Counts what is dispatched."""

    def __init__(self) -> None:
        super().__init__()
        self.number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.number += 1
        return func(*args, **(kwargs or {}))


def calls_of_steps(policy: str, n_layers: int, num_slots: int) -> list[int]:
    model = random_model(4, device="cpu", n_layers=n_layers)
    # Without a failed test, which makes two steps of one.
    cache: Any = ElasticConfig(window_length=5, gamma=-1.0) if policy == "elastic" else policy
    decoder = dlmcache_cuda.Decoder(
        model, max_length=40, num_slots=num_slots, cache=cache, gen_length=24, block_length=24,
        steps=24, stop_at_eos=False,
    )  # fmt: skip
    for slot in range(num_slots):
        decoder.add([5 + slot, 6, 7])
    numbers = []
    while not decoder.idle:
        with Calls() as calls:
            decoder.step()
        numbers.append(calls.number)
    return numbers[:-1]  # results are made in the last


@pytest.fixture(autouse=True)
def _directions_in_a_folder_of_their_own(monkeypatch, tmp_path):
    monkeypatch.setenv("DLMCACHE_CACHE_DIR", str(tmp_path))


@pytest.mark.parametrize("policy", ALLOWED)
def test_a_step_calls_torch_a_few_times(policy):
    median = statistics.median(calls_of_steps(policy, 2, 1))
    assert 15 < median <= ALLOWED[policy]
    assert statistics.median(calls_of_steps(policy, 5, 1)) == median


def test_slots_share_the_calls_of_a_step():
    """Each adds only the seven that cut its event out of those of the batch."""
    one, three = (statistics.median(calls_of_steps("dual", 2, slots)) for slots in (1, 3))
    assert one < three <= one + 2 * 7
