"""Steps that are repeated: what was marked did not fit, or predicted too little.

Nothing of the first attempt may be left: tokens, rows and what the policy remembers are those of
steps that know everything before they begin, which the oracles confirm elsewhere.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from oracles.compare import random_prompts
from oracles.every_policy import assert_same, config_of, model_of
from oracles.host_graph import HostStepGraphs
from oracles.resident import resident

import dlmcache_cuda
from dlmcache_cuda.decoding.step_outcome import StepOutcome
from dlmcache_cuda.model import attention
from dlmcache_cuda.model.head import Head
from dlmcache_cuda.policies.d2 import D2, D2Config
from dlmcache_cuda.policies.dkv_decode import DkvDecodeConfig
from dlmcache_cuda.policies.dkv_greedy import DkvGreedyConfig
from dlmcache_cuda.policies.dkv_pd import DkvPdConfig

LENGTHS = [3, 11, 1, 7, 20]
COMMITS: dict[str, dict[str, Any]] = {
    "fixed": {},
    "threshold": {"threshold": 0.05, "block_length": 8},
    "guided": {"cfg_scale": 1.5, "block_length": 12},
    "warm": {"temperature": 0.7, "steps": 12},
}


class Attempts:
    """Counts the steps whose first attempt did not hold."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps = self.overflowing = self.lacking = 0
        read = StepOutcome.read.__func__

        def counted(cls, *args):
            outcome = read(cls, *args)
            self.steps += 1
            self.overflowing += outcome.overflows
            self.lacking += any(outcome.lacking)
            return outcome

        monkeypatch.setattr(StepOutcome, "read", classmethod(counted))


def assert_decodes_the_same(family: str, batch_size: int, **options: Any) -> None:
    model, prompts = model_of(family), random_prompts(2, LENGTHS)
    options = {"gen_length": 24, "seed": 3, "batch_size": batch_size} | options
    exact = dlmcache_cuda.decode(model, prompts, trace=True, **options)
    with resident():
        mine = dlmcache_cuda.decode(model, prompts, trace=True, **options)
    for i, (a, b) in enumerate(zip(mine.sequences, exact.sequences, strict=True)):
        assert_same(a, b, f"resident, sequence {i}")
    assert mine.stats.forwards == exact.stats.forwards
    with resident(graphs=True):
        mine = dlmcache_cuda.decode(model, prompts, **options)
    for i, (a, b) in enumerate(zip(mine.sequences, exact.sequences, strict=True)):
        assert a.ids.tolist() == b.ids.tolist(), f"replayed, sequence {i}"
        assert a.commit_step.tolist() == b.commit_step.tolist(), f"replayed, sequence {i}"
        assert a.confidence.tolist() == pytest.approx(b.confidence.tolist(), abs=1e-5, nan_ok=True)
        for name in ("forwards", "rows_computed", "refreshes"):
            assert getattr(a, name) == getattr(b, name), f"replayed, sequence {i}: {name}"


@pytest.mark.parametrize("commit", COMMITS)
@pytest.mark.parametrize("family", ["llada", "dream"])
@pytest.mark.parametrize("expected", [0, 9])
def test_more_rows_than_expected(monkeypatch, family, commit, expected):
    """Room for 0 rows is never enough; room for 9 of each slot, rounded up to 32, sometimes is."""
    monkeypatch.setattr(D2, "expected_rows", lambda self, view, plan: expected)
    attempts = Attempts(monkeypatch)
    config = D2Config(current_k=7, rollout_p=0.3, inflate_w=2)
    assert_decodes_the_same(family, 3, cache=config, **COMMITS[commit])
    assert attempts.overflowing > 0
    assert expected == 0 or attempts.overflowing < attempts.steps // 2


@pytest.mark.parametrize("family", ["llada", "dream"])
def test_sequences_enter_beside_others_whose_rows_do_not_fit(monkeypatch, family):
    """A refreshed canvas goes through dense attention although others have unknown counts."""
    monkeypatch.setattr(attention, "DENSE_FROM", {"cpu": 1, "cuda": 1})
    monkeypatch.setattr(D2, "expected_rows", lambda self, view, plan: 3 + view.step % 20)
    attempts = Attempts(monkeypatch)
    assert_decodes_the_same(family, 3, cache=D2Config(current_k=7, rollout_p=0.3), steps=8)
    assert attempts.overflowing > 0


def test_as_many_rows_as_before_are_expected(monkeypatch):
    attempts = Attempts(monkeypatch)
    assert_decodes_the_same("llada", 2, cache=D2Config(current_k=5, rollout_p=0.5))
    assert attempts.overflowing < attempts.steps // 10


@pytest.mark.parametrize("commit", ["fixed", "warm", "guided", "order"])
@pytest.mark.parametrize(
    "config",
    [
        DkvDecodeConfig(cache_reloading_step=6, shift_type="right"),
        DkvPdConfig(cache_reloading_step=6, shift_type="right"),
    ],
    ids=["decode", "pd"],
)
def test_too_few_predicting_rows(monkeypatch, config, commit):
    options = {"remasking": "random_order"} if commit == "order" else COMMITS[commit]
    attempts = Attempts(monkeypatch)
    HostStepGraphs.captured = HostStepGraphs.replayed = 0
    assert_decodes_the_same("dream", 2, cache=config, **options)
    assert attempts.lacking > 0
    assert HostStepGraphs.replayed > 0 or commit != "fixed"


@pytest.mark.parametrize("family", ["llada", "dream"])
@pytest.mark.parametrize("name", ["elastic", "composed"])
def test_one_twin_may_go_on_without_the_other(monkeypatch, family, name):
    """With guidance the twins of a slot drift in different layers, or only one of them does."""
    seen = set()
    of_twins = StepOutcome.of_twins

    def watched(self, boundary):
        slots = len(self.statuses)
        for slot in range(slots):
            conditional, other = boundary[slot::slots]
            if conditional != other:
                seen.add((conditional is None, other is None))
        return of_twins(self, boundary)

    monkeypatch.setattr(StepOutcome, "of_twins", watched)
    HostStepGraphs.captured = HostStepGraphs.replayed = 0
    config = dataclasses.replace(config_of(name), gamma=0.985)
    assert_decodes_the_same(family, 3, cache=config, cfg_scale=1.5, block_length=12)
    assert seen == {(False, True), (True, False), (False, False)}
    assert HostStepGraphs.replayed > 0


@pytest.mark.parametrize("center", ["next", "previous"])
def test_masks_that_stay_masks_are_known_in_random_order(monkeypatch, center):
    """The mask itself is predicted now and then: such a position is never due again."""
    model = model_of("llada")
    usual = dlmcache_cuda.decode(model, random_prompts(2, LENGTHS), gen_length=24)
    often = int(torch.cat([ids.ids for ids in usual.sequences]).mode().values)
    head = model.head.clone()
    head[model.mask_token_id] = head[often]
    monkeypatch.setattr(model, "_head", Head(head))
    config = DkvGreedyConfig(cache_reloading_step=4, window_length=3, window_center=center)
    options = {"cache": config, "temperature": 1.0, "block_length": 12, "stop_at_eos": False}
    assert_decodes_the_same("llada", 2, **options)
    seen = dlmcache_cuda.decode(model, random_prompts(2, LENGTHS), gen_length=24, seed=3, **options)
    left = sum((ids.commit_step < 0).sum() for ids in seen.sequences)
    assert 0 < left < 24 * len(LENGTHS)
