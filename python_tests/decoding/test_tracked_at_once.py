"""Elastic-Cache by one operator for many layers: nothing differs from layer by layer."""

from __future__ import annotations

import pytest
import torch

import dlmcache_cuda
from dlmcache_cuda import ops
from dlmcache_cuda.model.whole_stack import WholeStack
from dlmcache_cuda.policies.elastic import ElasticConfig
from dlmcache_cuda.testing.tiny_model import random_model

CONFIGS = {
    "default": {},
    "sensitive": {"gamma": 0.97},
    "rows": {"gamma": 0.99, "similarity": "rows", "track_num": 3},
    "never": {"gamma": -1.0, "refresh_steps": 4},
    "all-masks": {"block_caching": False, "gamma": 0.95},
}
PROMPTS = [list(range(5, 5 + length)) for length in (9, 4, 14)]


@pytest.fixture(scope="module", params=["llada", "Dream"])
def model(request):
    return random_model(4, device="cpu", model_type=request.param, n_layers=4)


@pytest.fixture
def calls(monkeypatch) -> list[int]:
    """The layers at which the operator was asked to begin."""
    begun: list[int] = []
    usual = ops.track_layers_

    def track_layers_(*arguments, **tracking):
        begun.append(arguments[11])
        return usual(*arguments, **tracking)

    monkeypatch.setattr(ops, "track_layers_", track_layers_)
    return begun


def decoded(model, prompts, settings) -> list[tuple]:
    out = dlmcache_cuda.decode(
        model, prompts, gen_length=12, steps=12, batch_size=len(prompts), stop_at_eos=False,
        cache=ElasticConfig(window_length=5, **settings),
    )  # fmt: skip
    return [
        (s.ids, s.commit_step, s.confidence, torch.tensor([s.forwards, s.refreshes]),
         torch.tensor(s.rows_computed))
        for s in out.sequences
    ]  # fmt: skip


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("config", CONFIGS)
def test_same_as_layer_by_layer(model, config, slots, calls, monkeypatch):
    at_once = decoded(model, PROMPTS[:slots], CONFIGS[config])
    assert calls and calls[0] == 0
    number = len(calls)
    monkeypatch.setattr(WholeStack, "takes", lambda *_: False)
    alone = decoded(model, PROMPTS[:slots], CONFIGS[config])
    assert len(calls) == number
    for mine, other in zip(at_once, alone, strict=True):
        for part, other_part in zip(mine, other, strict=True):
            assert torch.equal(part, other_part)


def test_goes_on_behind_every_boundary(model, calls):
    """Slots whose tests fail in different layers make a step of several parts."""
    decoded(model, PROMPTS, CONFIGS["sensitive"])
    starts = [place for place, layer in enumerate(calls) if layer == 0]
    parts = [end - begin for begin, end in zip(starts, [*starts[1:], len(calls)], strict=True)]
    assert max(parts) > 2 and min(parts) == 1


def test_refreshed_rows_that_are_too_many_go_layer_by_layer(model, calls, monkeypatch):
    """The operator takes the few rows of a step, but not what a boundary adds to them."""
    usual = WholeStack.takes
    alone = decoded(model, PROMPTS[:1], CONFIGS["sensitive"])
    few = [layer for layer in calls if layer > 0]
    monkeypatch.setattr(
        WholeStack, "takes", lambda self, rows, *rest: len(rows.row_index) < 15
        and usual(self, rows, *rest),
    )  # fmt: skip
    calls.clear()
    again = decoded(model, PROMPTS[:1], CONFIGS["sensitive"])
    assert few and calls and not any(calls)
    for mine, other in zip(again, alone, strict=True):
        for part, other_part in zip(mine, other, strict=True):
            assert torch.equal(part, other_part)
