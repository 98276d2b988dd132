"""Policies that track or select by one operator for many layers: nothing differs from layer by
layer."""

from __future__ import annotations

import pytest
import torch

import dlmcache_cuda
from dlmcache_cuda import ops
from dlmcache_cuda.model import packed
from dlmcache_cuda.model.whole_stack import WholeStack
from dlmcache_cuda.policies.dllm import DllmConfig
from dlmcache_cuda.policies.elastic import ElasticConfig
from dlmcache_cuda.policies.spa import SpaConfig
from dlmcache_cuda.testing.tiny_model import random_model

TRACKING = {
    "default": {},
    "sensitive": {"gamma": 0.97},
    "rows": {"gamma": 0.99, "similarity": "rows", "track_num": 3},
    "never": {"gamma": -1.0, "refresh_steps": 4},
    "all-masks": {"block_caching": False, "gamma": 0.95},
}
SELECTING = {
    "spa": SpaConfig(refresh_gen_steps=3, max_update_ratio=0.5),
    "spa-paper": SpaConfig(kv_rows="selected", reuse="output", reference_rows="computed",
                           proxy_rank=5, max_update_ratio=0.5),
    "spa-uniform": SpaConfig(budget="uniform", refresh_steps=5, max_update_ratio=0.3),
    "dllm": DllmConfig(gen_interval_steps=3, prompt_interval_steps=5),
    "dllm-nothing": DllmConfig(transfer_ratio=0.0),
}  # fmt: skip
PROMPTS = [list(range(5, 5 + length)) for length in (9, 4, 14)]


@pytest.fixture(scope="module", params=["llada", "Dream", "Dream-packed"])
def model(request):
    family, _, storage = request.param.partition("-")
    with pytest.MonkeyPatch.context() as patch:
        if storage:
            if not packed.packs("cpu", torch.float32):
                pytest.skip("this torch cannot pack matrices (no oneDNN)")
            patch.setattr(packed, "_PACKED_FROM", 1)
        return random_model(4, device="cpu", model_type=family, n_layers=4)


@pytest.fixture(autouse=True)
def _directions_in_a_folder_of_their_own(monkeypatch, tmp_path):
    monkeypatch.setenv("DLMCACHE_CACHE_DIR", str(tmp_path))


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


def decoded(model, prompts, cache) -> list[tuple]:
    if isinstance(cache, dict):
        cache = ElasticConfig(window_length=5, **cache)
    out = dlmcache_cuda.decode(
        model, prompts, gen_length=12, steps=12, batch_size=len(prompts), stop_at_eos=False,
        cache=cache,
    )  # fmt: skip
    return [
        (s.ids, s.commit_step, s.confidence, torch.tensor([s.forwards, s.refreshes]),
         torch.tensor(s.rows_computed))
        for s in out.sequences
    ]  # fmt: skip


def assert_same(at_once: list[tuple], alone: list[tuple]) -> None:
    for mine, other in zip(at_once, alone, strict=True):
        for part, other_part in zip(mine, other, strict=True):
            assert torch.equal(part, other_part)


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("config", TRACKING)
def test_tracking_is_the_same_as_layer_by_layer(model, config, slots, calls, monkeypatch):
    at_once = decoded(model, PROMPTS[:slots], TRACKING[config])
    assert calls and calls[0] == 0
    number = len(calls)
    monkeypatch.setattr(WholeStack, "takes", lambda *_: False)
    assert_same(at_once, decoded(model, PROMPTS[:slots], TRACKING[config]))
    assert len(calls) == number


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("config", SELECTING)
def test_selecting_is_the_same_as_layer_by_layer(model, config, slots, monkeypatch):
    taken: list[int] = []
    usual = ops.select_layers_

    def select_layers_(h, *rest, **selection):
        taken.append(len(h))
        return usual(h, *rest, **selection)

    monkeypatch.setattr(ops, "select_layers_", select_layers_)
    at_once = decoded(model, PROMPTS[:slots], SELECTING[config])
    assert len(taken) == 12
    monkeypatch.setattr(WholeStack, "takes", lambda *_: False)
    assert_same(at_once, decoded(model, PROMPTS[:slots], SELECTING[config]))
    assert len(taken) == 12


def test_goes_on_behind_every_boundary(model, calls):
    """Slots whose tests fail in different layers make a step of several parts."""
    decoded(model, PROMPTS, TRACKING["sensitive"])
    starts = [place for place, layer in enumerate(calls) if layer == 0]
    parts = [end - begin for begin, end in zip(starts, [*starts[1:], len(calls)], strict=True)]
    assert max(parts) > 2 and min(parts) == 1


def test_refreshed_rows_that_are_too_many_go_layer_by_layer(model, calls, monkeypatch):
    """The operator takes the few rows of a step, but not what a boundary adds to them."""
    usual = WholeStack.takes
    alone = decoded(model, PROMPTS[:1], TRACKING["sensitive"])
    few = [layer for layer in calls if layer > 0]
    monkeypatch.setattr(
        WholeStack, "takes", lambda self, rows, *rest: len(rows.row_index) < 15
        and usual(self, rows, *rest),
    )  # fmt: skip
    calls.clear()
    again = decoded(model, PROMPTS[:1], TRACKING["sensitive"])
    assert few and calls and not any(calls)
    assert_same(again, alone)
