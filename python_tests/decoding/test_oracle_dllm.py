"""decode(cache="dllm") against the oracle: commits, and the rows that every layer computed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from oracles.cases import decode_settings
from oracles.compare import assert_equals_oracle, load_pair, make_config, random_prompts
from oracles.sequence import Record, Settings

EXAMPLES = int(os.environ.get("DLMCACHE_TEST_EXAMPLES", "10"))
MODELS: dict[str, dict[str, Any]] = {
    "mha": {"n_layers": 2},
    "gqa": {"n_layers": 3, "n_kv_heads": 2},
    "dream": {"family": "dream", "n_layers": 3, "n_kv_heads": 2},
}
COMMITS: dict[str, dict[str, Any]] = {
    "fixed": {"stop_at_eos": False},
    "two-per-step": {"steps": 6, "temperature": 0.5, "stop_at_eos": False},
    "threshold": {"threshold": 0.6, "stop_at_eos": False},
    "factor": {"factor": 1.5},
    "guided": {"cfg_scale": 0.5},
    "random-order": {"remasking": "random_order"},
}
OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "half": {"transfer_ratio": 0.5, "gen_interval_steps": 6},
    "prompt-alone": {"prompt_interval_steps": 3, "gen_interval_steps": 7, "transfer_ratio": 0.4},
    "prompt-often": {"prompt_interval_steps": 1, "gen_interval_steps": 5},
    "response-often": {"prompt_interval_steps": 6, "gen_interval_steps": 1},
    "frozen": {"transfer_ratio": 0, "prompt_interval_steps": 4, "gen_interval_steps": 3},
    "less-than-commits": {"transfer_ratio": 0.1, "gen_interval_steps": 6},  # keys go stale
    "values-only": {"transfer_ratio": 0.05, "gen_interval_steps": 5},
    "all": {"transfer_ratio": 1.0, "gen_interval_steps": 9},
}


def check(
    options: dict[str, Any],
    settings: Settings,
    model: str,
    model_seed: int = 2,
    lengths: Sequence[int] = (9, 2),
    batch_size: int | None = None,
) -> list[Record]:
    pair = load_pair(model_seed, **MODELS[model])
    prompts = random_prompts(model_seed, list(lengths))
    seeds = [3, 2**33, 2**61 + 9, 0, 7][: len(lengths)]
    cache = make_config("dllm", **options)
    records = assert_equals_oracle(
        pair, prompts, settings, cache, seeds=seeds, trace=True, batch_size=batch_size
    )
    assert records.count(None) <= 1
    return [record for record in records if record is not None]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize(
    "model,commit",
    [("mha", "fixed"), ("gqa", "two-per-step"), ("dream", "fixed")],
)
def test_same_commits_and_rows(model, commit, options):
    check(options, Settings(12, 6, **COMMITS[commit]), model)


@pytest.mark.parametrize("commit", COMMITS)
@pytest.mark.parametrize("model", ["gqa", "dream"])
def test_commit_rules(model, commit):
    check({"transfer_ratio": 0.4}, Settings(12, 4, **COMMITS[commit]), model, 5)


@pytest.mark.parametrize("batch_size", [None, 2])
@pytest.mark.parametrize("model", ["gqa", "dream"])
def test_five_ragged_prompts(model, batch_size):
    """What each gives alone, also where slots are used again."""
    settings = Settings(12, 6, steps=6)
    check({"transfer_ratio": 0.4}, settings, model, 2, [3, 11, 1, 7, 20], batch_size)


@pytest.mark.parametrize("model", ["mha", "dream"])
def test_blocks(model):
    for blocks in [(8, None, None), (15, 3, 20), (6, 1, 6)]:
        check({"transfer_ratio": 0.4}, Settings(*blocks), model, 5)


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    options=st.fixed_dictionaries(
        {
            "prompt_interval_steps": st.integers(1, 9),
            "gen_interval_steps": st.integers(1, 9),
            "transfer_ratio": st.sampled_from([0, 0.05, 0.15, 0.35, 0.65, 1]),
        }
    ),
    settings=decode_settings(["low_confidence", "random", "random_order"], longest_block=6),
    model=st.sampled_from(["gqa", "dream"]),
    model_seed=st.integers(0, 3),
    prompt_seed=st.integers(0, 2**31),
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    seed=st.integers(0, 2**63 - 5),
    batch_size=st.none() | st.integers(1, 3),
)
def test_random_settings(
    options, settings, model, model_seed, prompt_seed, lengths, seed, batch_size
):
    prompts = random_prompts(prompt_seed, lengths)
    records = assert_equals_oracle(
        load_pair(model_seed, **MODELS[model]),
        prompts,
        settings,
        make_config("dllm", **options),
        seeds=[seed + i for i in range(len(prompts))],
        batch_size=batch_size,
        trace=True,
    )
    note(f"smallest gaps: {[record and (record.margin, record.row_gap) for record in records]}")
