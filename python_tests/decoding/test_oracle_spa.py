"""decode(cache="spa") against the oracle: commits, and the rows that every layer computed."""

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
    "gqa": {"n_layers": 4, "n_kv_heads": 2},
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
    "uniform": {"budget": "uniform", "max_update_ratio": 0.5, "refresh_gen_steps": 5},
    "nothing": {"budget": "uniform", "max_update_ratio": 0.05},
    "all": {"budget": "uniform", "max_update_ratio": 1.0, "refresh_gen_steps": 5},
    "curve": {"peak": 0.4, "first_ratio": 0.1, "peak_ratio": 0.5, "last_ratio": 0.4,
              "max_update_ratio": 0.7, "min_update_ratio": 0.3},
    "ratios": {"layer_ratios": True},
    "intervals": {"refresh_steps": 6, "refresh_gen_steps": 4},
    "gen-dense": {"refresh_steps": 9, "refresh_gen_steps": 1},
    "warm-up": {"warmup_steps": 2},
    "rank": {"proxy_rank": 3, "max_update_ratio": 0.5},
    "rank-fraction": {"proxy_rank": 0.25, "max_update_ratio": 0.5},
    "kv-selected": {"kv_rows": "selected", "max_update_ratio": 0.5},
    "output": {"reuse": "output", "max_update_ratio": 0.5},
    "reference-computed": {"reference_rows": "computed", "max_update_ratio": 0.5},
    "paper": {"kv_rows": "selected", "reuse": "output", "reference_rows": "computed",
              "max_update_ratio": 0.5, "refresh_gen_steps": 9},
    "slice-shift": {"slice_shift": True, "max_update_ratio": 0.5},
    "early-stop": {"early_stop_steps": 3, "max_update_ratio": 0.5},
}  # fmt: skip


def check(
    options: dict[str, Any],
    settings: Settings,
    model: str,
    model_seed: int = 2,
    lengths: Sequence[int] = (9, 2),
    batch_size: int | None = None,
) -> list[Record]:
    pair = load_pair(model_seed, **MODELS[model])
    if options.get("layer_ratios"):
        ratios = (0.9, 0.3, 0.6, 0.1)[: pair.plain.config.n_layers]
        options = {**options, "layer_ratios": ratios}
    prompts = random_prompts(model_seed, list(lengths))
    seeds = [3, 2**33, 2**61 + 9, 0, 7][: len(lengths)]
    cache = make_config("spa", **options)
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
    options = {"max_update_ratio": 0.5, "refresh_gen_steps": 5}
    check(options, Settings(12, 4, **COMMITS[commit]), model, 5)


@pytest.mark.parametrize("model_seed", range(4))
def test_guidance_where_one_row_predicts_two_positions(model_seed):
    """The row of the twin predicts two as well."""
    options = {"slice_shift": True, "max_update_ratio": 0.5, "refresh_gen_steps": 3}
    check(options, Settings(8, 8, cfg_scale=1.5, stop_at_eos=False), "dream", model_seed, (3, 1, 6))


@pytest.mark.parametrize("model_seed", range(6))
@pytest.mark.parametrize("model", ["gqa", "dream"])
def test_rows_that_did_not_move_are_taken_from_the_left(model, model_seed):
    """With absolute outputs a row that a layer did not compute reaches the next one unchanged,
    whatever products its signals were parts of."""
    options = {"reuse": "output", "max_update_ratio": 0.6, "refresh_gen_steps": 9, "proxy_rank": 5}
    check(options, Settings(12, 12, stop_at_eos=False), model, model_seed, (4, 7))


@pytest.mark.parametrize("remasking", ["low_confidence", "random_order"])
@pytest.mark.parametrize("stop_at_eos,every", [(True, 1), (False, 1), (False, 4)])
@pytest.mark.parametrize("model", ["gqa", "dream"])
def test_early_stop(model, every, stop_at_eos, remasking):
    """What stands behind the first end token becomes padding, committed or not."""
    padded = 0
    for model_seed in (2, 4):
        settings = Settings(20, 10, stop_at_eos=stop_at_eos, steps=10, remasking=remasking)
        for record in check({"early_stop_steps": every}, settings, model, model_seed):
            padded += record.forwards < 10 or -1 in record.commit_step
    assert padded > 0


@pytest.mark.parametrize("batch_size", [None, 2])
@pytest.mark.parametrize("model", ["gqa", "dream"])
def test_five_ragged_prompts(model, batch_size):
    """What each gives alone, also where slots are used again."""
    settings = Settings(12, 6, steps=6)
    check(
        {"max_update_ratio": 0.5, "refresh_gen_steps": 5},
        settings,
        model,
        2,
        [3, 11, 1, 7, 20],
        batch_size,
    )


@pytest.mark.parametrize("model", ["mha", "dream"])
def test_blocks(model):
    for blocks in [(8, None, None), (15, 3, 20), (6, 1, 6)]:
        check({"max_update_ratio": 0.6}, Settings(*blocks), model, 5)


@st.composite
def cases(draw) -> dict[str, Any]:
    ratio = st.sampled_from([0.05, 0.15, 0.35, 0.55, 0.85])
    return draw(
        st.fixed_dictionaries(
            {
                "refresh_steps": st.integers(1, 12),
                "refresh_gen_steps": st.integers(1, 9),
                "proxy_rank": st.sampled_from([2, 4, 128, 0.3, 1]),
                "max_update_ratio": ratio,
                "min_update_ratio": st.sampled_from([0.0, 0.1, 0.4]),
                "budget": st.sampled_from(["gaussian", "uniform"]),
                "peak": st.sampled_from([0.2, 0.6, 0.9]),
                "first_ratio": ratio,
                "peak_ratio": ratio,
                "last_ratio": ratio,
                "kv_rows": st.sampled_from(["generated", "selected"]),
                "reuse": st.sampled_from(["delta", "output"]),
                "reference_rows": st.sampled_from(["all", "computed"]),
                "warmup_steps": st.integers(0, 2),
                "early_stop_steps": st.none() | st.integers(1, 6),
                "slice_shift": st.booleans(),
            }
        )
    )


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    options=cases(),
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
        make_config("spa", **options),
        seeds=[seed + i for i in range(len(prompts))],
        batch_size=batch_size,
        trace=True,
    )
    note(f"smallest gaps: {[record and (record.margin, record.row_gap) for record in records]}")
