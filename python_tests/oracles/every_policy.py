"""What tests of all policies share: models, small settings, and the comparison of two runs."""

from __future__ import annotations

import functools
from typing import Any

from dlmcache_cuda.policies import available_policies
from dlmcache_cuda.testing.tiny_model import random_model

POLICIES = available_policies()
FAMILIES = {"llada": {}, "dream": {"model_type": "Dream"}}
# Intervals, windows and budgets that fit 24 generated tokens; the defaults are for hundreds.
SMALL: dict[str, dict[str, Any]] = {
    "dkv-decode": {"cache_reloading_step": 5},
    "dkv-pd": {"cache_reloading_step": 5},
    "elastic": {"window_length": 4, "gamma": 0.995},
    "spa": {"refresh_steps": 9, "refresh_gen_steps": 4, "proxy_rank": 5, "max_update_ratio": 0.5},
    "dllm": {"prompt_interval_steps": 5, "gen_interval_steps": 3},
    "d2": {"current_k": 5},
    "composed": {"window_length": 4, "gamma": 0.995, "proxy_rank": 5, "delay_steps": 2},
}
CASES = [
    (family, name)
    for family in FAMILIES
    for name, policy in POLICIES.items()
    if int(family == "dream") in policy.shifts
]


@functools.cache
def model_of(family: str) -> Any:
    return random_model(7, n_layers=3, **FAMILIES[family])


def config_of(name: str) -> Any:
    return POLICIES[name].Config(**SMALL.get(name, {}))


def options_of(name: str, **options: Any) -> dict[str, Any]:
    remasking = POLICIES[name].remasking
    return options if remasking is None else {**options, "remasking": remasking}


def assert_same(one: Any, other: Any, where: str) -> None:
    assert one.ids.tolist() == other.ids.tolist(), where
    assert one.commit_step.tolist() == other.commit_step.tolist(), where
    for name in ("forwards", "rows_computed", "refreshes", "stop_reason"):
        assert getattr(one, name) == getattr(other, name), f"{where}: {name}"
    for step, (a, b) in enumerate(zip(one.trace, other.trace, strict=True)):
        rows = [[layer.tolist() for layer in trace.rows] for trace in (a, b)]
        assert rows[0] == rows[1], f"{where}: rows of step {step}"
        assert a.boundary == b.boundary, f"{where}: boundary of step {step}"
