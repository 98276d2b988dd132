"""decode() with dKV-Cache's policies against their oracles: commits and the rows of every layer."""

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
    "two-per-step": {"steps": 8, "temperature": 0.5, "stop_at_eos": False},
    "threshold": {"threshold": 0.6, "stop_at_eos": False},
    "random-guided": {"remasking": "random", "cfg_scale": 0.5},
    "random-order": {"remasking": "random_order", "stop_at_eos": False},
}
CACHES: dict[str, tuple[str, dict[str, Any]]] = {
    "decode": ("dkv-decode", {}),
    "decode-3": ("dkv-decode", {"cache_reloading_step": 3}),
    "decode-un-right": ("dkv-decode", {"cache_reloading_step": 5, "shift_type": "un_right"}),
    "decode-right": ("dkv-decode", {"cache_reloading_step": 5, "shift_type": "right"}),
    "prefill": ("dkv-prefill", {}),
    "prefill-4": ("dkv-prefill", {"refresh_steps": 4}),
    "pd": ("dkv-pd", {}),
    "pd-un-right": ("dkv-pd", {"cache_reloading_step": 6, "shift_type": "un_right"}),
    "pd-right": ("dkv-pd", {"shift_type": "right", "prompt_refresh_steps": 5}),
}
GREEDY: dict[str, dict[str, Any]] = {
    "defaults": {},
    "previous": {"window_center": "previous"},
    "narrow": {"cache_reloading_step": 4, "window_length": 1},
    "none": {"cache_reloading_step": 5, "window_length": 0},
    "wide": {"cache_reloading_step": 3, "window_length": 9, "window_center": "previous"},
}


def check(
    cache: Any,
    options: Settings,
    model: str,
    model_seed: int = 2,
    lengths: Sequence[int] = (6, 1),
    batch_size: int | None = None,
) -> list[Record]:
    pair = load_pair(model_seed, **MODELS[model])
    prompts = random_prompts(model_seed, list(lengths))
    seeds = [3, 2**33, 2**61 + 9, 0, 7][: len(lengths)]
    records = assert_equals_oracle(
        pair, prompts, options, cache, seeds=seeds, trace=True, batch_size=batch_size
    )
    assert records.count(None) <= 1
    return [record for record in records if record is not None]


@pytest.mark.parametrize("cache", CACHES)
@pytest.mark.parametrize(
    "model,commit",
    [
        ("mha", "fixed"),
        ("gqa", "random-guided"),
        ("dream", "threshold"),
        ("dream", "two-per-step"),
        ("dream", "random-order"),
    ],
)
def test_same_commits_and_rows(model, commit, cache):
    name, options = CACHES[cache]
    settings = Settings(16, 8, **COMMITS[commit])
    check(make_config(name, **options), settings, model)


@pytest.mark.parametrize(
    "model,cache",
    [("gqa", "dkv-decode"), ("dream", "dkv-decode"), ("dream", "dkv-pd"), ("gqa", "dkv-greedy")],
)
def test_five_ragged_prompts(model, cache):
    """What each gives alone, where slots are used again."""
    remasking = "random_order" if cache == "dkv-greedy" else "low_confidence"
    settings = Settings(16, 8, steps=8, remasking=remasking)
    check(cache, settings, model, 2, [3, 11, 1, 7, 20], batch_size=2)


@pytest.mark.parametrize("cache", ["dkv-decode", "dkv-prefill", "dkv-pd"])
@pytest.mark.parametrize("model", ["gqa", "dream"])
@pytest.mark.parametrize("gen_length,block_length,steps", [(8, None, None), (15, 3, 20), (6, 1, 6)])
def test_other_blocks_with_default_settings(gen_length, block_length, steps, model, cache):
    check(cache, Settings(gen_length, block_length, steps), model, 5)


@pytest.mark.parametrize("options", GREEDY.values(), ids=GREEDY)
@pytest.mark.parametrize(
    "commit",
    [
        {"stop_at_eos": False},
        {"steps": 10, "temperature": 0.7},
        {"steps": 6, "cfg_scale": 0.4, "stop_at_eos": False},
    ],
    ids=str,
)
def test_greedy(commit, options):
    settings = Settings(18, 9 if commit.get("steps") else 6, remasking="random_order", **commit)
    check(make_config("dkv-greedy", **options), settings, "gqa")


def test_greedy_sets_the_order_itself():
    """Its default remasking is the random order; the tokens are those of asking for it."""
    pair = load_pair(2, **MODELS["mha"])
    prompts = random_prompts(2, [5, 8])
    settings = Settings(12, 6, remasking="random_order")
    assert_equals_oracle(pair, prompts, settings, "dkv-greedy", remasking=None, trace=True)


@pytest.mark.parametrize("cache", ["none", "prefix", "dual", "dkv-decode"])
@pytest.mark.parametrize(
    "commit", [{}, {"steps": 8, "cfg_scale": 0.5}, {"temperature": 0.8}], ids=str
)
@pytest.mark.parametrize("model", ["gqa", "dream"])
def test_random_order_with_other_caches(model, commit, cache):
    settings = Settings(16, 4, remasking="random_order", stop_at_eos=False, **commit)
    check(cache, settings, model, 3, lengths=(7, 2))


def test_masks_left_behind_are_candidates_but_not_in_random_order():
    """A predicted mask stays open for the steps that follow; in random order its turn is over."""
    late = {"low_confidence": 0, "random_order": 0}
    for remasking in late:
        for model_seed in (3, 7, 8):
            settings = Settings(20, 5, remasking=remasking, stop_at_eos=False)
            for record in check("dkv-decode", settings, "dream", model_seed):
                steps = enumerate(record.commit_step)
                late[remasking] += sum(step >= 5 * (g // 5 + 1) for g, step in steps)
                if remasking == "random_order":
                    assert record.commit_step.count(-1) == record.masks_chosen
    assert late["low_confidence"] > 0
    assert late["random_order"] == 0


def caches() -> st.SearchStrategy:
    interval = st.integers(1, 6)
    shift_type = st.sampled_from(["un", "un_right", "right"])
    every = st.none() | interval
    return st.one_of(
        st.tuples(
            st.just("dkv-decode"),
            st.fixed_dictionaries({"cache_reloading_step": interval, "shift_type": shift_type}),
        ),
        st.tuples(st.just("dkv-prefill"), st.fixed_dictionaries({"refresh_steps": every})),
        st.tuples(
            st.just("dkv-pd"),
            st.fixed_dictionaries(
                {
                    "cache_reloading_step": interval,
                    "shift_type": shift_type,
                    "prompt_refresh_steps": every,
                }
            ),
        ),
        st.tuples(
            st.just("dkv-greedy"),
            st.fixed_dictionaries(
                {
                    "cache_reloading_step": interval,
                    "window_length": st.integers(0, 6),
                    "window_center": st.sampled_from(["next", "previous"]),
                }
            ),
        ),
    )


@st.composite
def cases(draw) -> tuple[str, dict[str, Any], str, Settings]:
    name, options = draw(caches())
    greedy = name == "dkv-greedy"
    settings = draw(
        decode_settings(
            remaskings=["random_order"] if greedy else ["low_confidence", "random", "random_order"],
            commits=["fixed"] if greedy else ["fixed", "fixed", "threshold", "factor"],
            longest_block=6,
        )
    )
    return name, options, draw(st.sampled_from(["gqa"] if greedy else ["gqa", "dream"])), settings


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    case=cases(),
    model_seed=st.integers(0, 3),
    prompt_seed=st.integers(0, 2**31),
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    seed=st.integers(0, 2**63 - 5),
    batch_size=st.none() | st.integers(1, 3),
)
def test_random_settings(case, model_seed, prompt_seed, lengths, seed, batch_size):
    name, options, model, settings = case
    prompts = random_prompts(prompt_seed, lengths)
    records = assert_equals_oracle(
        load_pair(model_seed, **MODELS[model]),
        prompts,
        settings,
        make_config(name, **options),
        seeds=[seed + i for i in range(len(prompts))],
        batch_size=batch_size,
        trace=True,
    )
    note(f"smallest margins: {[record and record.margin for record in records]}")
    assert records.count(None) <= 1
