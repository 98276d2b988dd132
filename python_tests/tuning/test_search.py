"""The search, with made-up measurements: who is looked at, in which order, and who is chosen."""

from __future__ import annotations

import pytest

from dlmcache_cuda.policies.fast_dllm import DualConfig
from dlmcache_cuda.tuning.bounds import Loss
from dlmcache_cuda.tuning.evaluator import Candidate, OutOfForwards
from dlmcache_cuda.tuning.search import Plan, Search
from dlmcache_cuda.tuning.trial import Measurement

PLAN = Plan.of(list(range(16)), held_out=4)
SURE = Loss(0.0, 0.0, 0.005)


class Judge:
    """Knows of each candidate its cost and its loss by number of prompts (held out: 4)."""

    def __init__(self, known, allowed_calls=1000):
        self.known, self.calls, self.left = known, [], allowed_calls

    def measure(self, candidate, prompts, what):
        if self.left == 0:
            raise OutOfForwards
        self.left -= 1
        steps = candidate.config.refresh_steps
        cost, losses = self.known[steps]
        self.calls.append((steps, len(prompts)))
        loss = losses.get(len(prompts), SURE)
        return Measurement(len(prompts), loss, rows=cost, forwards=1.0, seconds=2 - cost)


def search(known, cost="rows", **options):
    judge = Judge(known, **options)
    found = Search(judge, PLAN, 0.01, cost)
    found.first_look([Candidate(DualConfig(refresh_steps=steps)) for steps in known])
    return found, judge


def verdicts(found):
    return {trial.candidate.config.refresh_steps: trial.verdict for trial in found.trials}


def test_stages_grow_and_share_nothing_with_the_prompts_held_out():
    assert [len(stage) for stage in PLAN.stages] == [3, 6, 12]
    assert PLAN.stages[1][:3] == PLAN.stages[0] and PLAN.stages[2][:6] == PLAN.stages[1]
    assert sorted([*PLAN.stages[-1], *PLAN.held_out]) == list(range(16))
    assert Plan.of([5, 7], held_out=1) == Plan([[7]], [5])


def test_the_cheapest_is_taken_whatever_the_order():
    found, judge = search({1: (0.9, {}), 2: (0.3, {}), 3: (0.5, {})})
    assert found.choose().candidate.config.refresh_steps == 2
    # The others are not looked at further.
    assert judge.calls == [(1, 3), (2, 3), (3, 3), (2, 6), (2, 12), (2, 4), (2, 16)]
    assert verdicts(found) == {1: "open", 2: "chosen", 3: "open"} and found.complete


@pytest.mark.parametrize(
    "losses, verdict",
    [
        ({3: Loss(0.2, 0.05, 0.3)}, "hopeless"),
        ({6: Loss(0.2, 0.05, 0.3)}, "hopeless"),
        ({12: Loss(0.005, 0.0, 0.02)}, "loses too much"),
        ({4: Loss(0.02, 0.0, 0.05)}, "not confirmed"),
        ({16: Loss(0.008, 0.0, 0.02)}, "not confirmed"),
    ],
)
def test_who_loses_too_much_makes_room_for_the_next(losses, verdict):
    found, judge = search({1: (0.2, losses), 2: (0.4, {})})
    assert found.choose().candidate.config.refresh_steps == 2
    assert verdicts(found)[1] == verdict
    if 3 in losses:
        assert (1, 6) not in judge.calls
    if 6 in losses:
        assert (1, 12) not in judge.calls
    if verdict != "not confirmed":
        assert (1, 4) not in judge.calls


def test_a_mean_within_what_is_allowed_is_not_enough():
    found, _ = search({1: (0.2, {12: Loss(0.009, 0.0, 0.011)})})
    assert found.choose() is None and found.complete


def test_what_costs_more_than_no_cache_is_not_taken():
    found, _ = search({1: (1.2, {})})
    assert found.choose() is None and verdicts(found) == {1: "no cheaper"}


def test_the_cost_is_what_was_asked_for():
    found, _ = search({1: (0.99, {}), 2: (1.5, {})}, cost="seconds")
    assert found.choose().candidate.config.refresh_steps == 2


@pytest.mark.parametrize("calls", [0, 1, 2, 4])
def test_what_was_found_before_the_forwards_ran_out_stays(calls):
    found, judge = search({1: (0.4, {}), 2: (0.3, {})}, allowed_calls=calls)
    assert found.choose() is None and not found.complete
    assert len(found.trials) == min(calls, 2)
