"""Given text inside the generation region: every policy commits what its oracle commits."""

from __future__ import annotations

from typing import Any

import pytest
from oracles.canvases import random_region
from oracles.checkpoint import MASK
from oracles.compare import assert_equals_oracle, load_pair, random_prompts
from oracles.every_policy import CASES, POLICIES, SMALL
from oracles.sequence import Settings

MODELS = {"llada": {"n_layers": 3}, "dream": {"family": "dream", "n_layers": 3, "n_kv_heads": 2}}
COMMITS: dict[str, dict[str, Any]] = {
    "blocks": {"block_length": 5, "stop_at_eos": False},
    "threshold": {"threshold": 0.3, "block_length": 7},
    "guided": {"cfg_scale": 0.5, "block_length": 6},
}
LENGTHS = [5, 1, 9]


def check(family: str, name: str, seed: int, config: Any = None, given: float = 0.5, **options):
    pair = load_pair(seed, **MODELS[family])
    # One long region, one short one, one that is all masks.
    regions = [random_region(seed, 19, given), random_region(seed + 50, 8, given), [MASK] * 13]
    options |= {"remasking": POLICIES[name].remasking or "low_confidence"}
    if config is None:
        config = POLICIES[name].Config(**SMALL.get(name, {}))
    settings = Settings(gen_length=1, seed=seed, **options)
    # On Dream LLaDA's sampling has to be asked for by name.
    return assert_equals_oracle(
        pair, random_prompts(seed, LENGTHS), settings, config, regions=regions, trace=True
    )


@pytest.mark.parametrize("commit", COMMITS)
@pytest.mark.parametrize(("family", "name"), CASES)
def test_every_policy_equals_its_oracle(family, name, commit):
    if "threshold" in COMMITS[commit] and POLICIES[name].remasking:
        pytest.skip("a fixed number of commits only")
    decided = 0
    for seed in (1, 2):
        records = check(family, name, seed, **COMMITS[commit])
        decided += sum(record is not None for record in records)
    assert decided >= 3
