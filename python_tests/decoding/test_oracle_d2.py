"""decode(cache="d2") against the oracle of d2Cache: tokens and rows."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracles.cases import COMMITS, MODELS, make_pair, small_settings
from oracles.compare import assert_equals_oracle, make_config, random_prompts
from oracles.d2 import D2Options, decode_d2, densities, important_rows
from oracles.sequence import Record, Settings
from oracles.vanilla import decode_vanilla

import dlmcache_cuda

EXAMPLES = int(os.environ.get("DLMCACHE_TEST_EXAMPLES", "10"))
SEEDS = [3, 2**33, 2**61 + 9]
LENGTHS = [6, 1, 11]
OPTIONS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "k-4": {"current_k": 4},
    "k-1": {"current_k": 1, "rollout_p": 0.3},
    "much-rollout": {"current_k": 3, "rollout_p": 0.6},
    "no-rollout": {"current_k": 4, "rollout_p": 0.0},
    "narrow": {"current_k": 3, "sigma": 1.5},
    "inflated": {"current_k": 3, "inflate_w": 3},
    "no-prior": {"current_k": 4, "certainty_prior": False},
    "interval": {"current_k": 3, "refresh_steps": 4},
}


def check(pair, decoding: Settings, prompts=None, seeds=None, **options: Any) -> list[Record]:
    prompts = random_prompts(9, LENGTHS) if prompts is None else prompts
    records = assert_equals_oracle(
        pair,
        prompts,
        decoding,
        make_config("d2", **options),
        seeds=seeds or SEEDS[: len(prompts)],
        trace=True,
    )
    assert records.count(None) <= 1
    return [record for record in records if record is not None]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", OPTIONS)
def test_options(name, model):
    place = list(OPTIONS).index(name) + list(MODELS).index(model)
    decoding = [Settings(12, stop_at_eos=False), Settings(15, 5, 9)][place % 2]
    check(make_pair(model, 1 + place % 3), decoding, **OPTIONS[name])


@pytest.mark.parametrize("model", ["llada-gqa", "dream"])
@pytest.mark.parametrize("commit", COMMITS)
def test_commits(commit, model):
    check(make_pair(model, 4), Settings(12, **COMMITS[commit]), current_k=4, rollout_p=0.2)


def test_rows_are_those_of_the_method():
    """Certain masks, fresh tokens and at least one important row; nothing is refreshed."""
    pair = make_pair("llada", 3)
    (record,) = check(
        pair, Settings(12, stop_at_eos=False), random_prompts(3, [7]), current_k=4, rollout_p=0.1
    )
    assert record.refresh_steps == [0]
    others = []
    for step in range(1, record.forwards):
        (rows,) = set(record.layer_rows[step])
        masks = {7 + g for g, s in enumerate(record.commit_step) if s >= step or s < 0}
        fresh = {7 + g for g, s in enumerate(record.commit_step) if s == step - 1}
        assert fresh <= rows
        assert len(rows & masks) >= min(4, len(masks))
        others.append(len(rows - masks - fresh))
    assert 0 < max(others) < 7


def test_the_certainty_prior_changes_the_order():
    pair = make_pair("llada", 3)
    prompts = random_prompts(3, [7])
    options = {"current_k": 32, "rollout_p": 0.1, "sigma": 1.0}
    orders = [
        check(pair, Settings(12, stop_at_eos=False), prompts, certainty_prior=prior, **options)
        for prior in (True, False)
    ]
    assert orders[0][0].commit_step != orders[1][0].commit_step


@pytest.mark.parametrize("model", ["llada", "dream"])
@pytest.mark.parametrize("commit", COMMITS)
def test_refreshed_at_every_step_without_prior_equals_vanilla(commit, model):
    pair = make_pair(model, 6)
    prompts = random_prompts(6, LENGTHS)
    options = {"gen_length": 12, "seed": SEEDS, **COMMITS[commit]}
    vanilla = dlmcache_cuda.decode(pair.model, prompts, **options)
    cache = make_config("d2", refresh_steps=1, certainty_prior=False)
    out = dlmcache_cuda.decode(pair.model, prompts, cache=cache, **options)
    for a, b in zip(out.sequences, vanilla.sequences, strict=True):
        assert a.ids.tolist() == b.ids.tolist()
        assert a.commit_step.tolist() == b.commit_step.tolist()
        assert a.rows_computed == b.rows_computed


@pytest.mark.parametrize("model", ["llada", "dream"])
@pytest.mark.parametrize("commit", ["blocks", "threshold", "guided"])
def test_the_oracle_refreshed_at_every_step_equals_the_vanilla_oracle(commit, model):
    pair = make_pair(model, 7)
    decoding = Settings(8, **COMMITS[commit])
    prompt = random_prompts(7, [5])[0].tolist()
    options = D2Options(refresh_steps=1, certainty_prior=False)
    record = decode_d2(pair.plain, prompt, decoding, pair.ids, options)
    vanilla = decode_vanilla(pair.plain, prompt, decoding, pair.ids)
    assert (record.ids, record.commit_step) == (vanilla.ids, vanilla.commit_step)


def test_densities_of_the_oracle():
    """Known on the left; known on the right only behind a known last position."""
    assert densities([True] * 5, 2.0) == pytest.approx([1.0] * 5)
    unknown = densities([False] * 6, 2.0)
    assert unknown == sorted(unknown, reverse=True)
    assert unknown[0] < 0.5 < densities([False] * 5 + [True], 2.0)[0] + 0.5
    both = densities([False, False, False, True], 1.0)
    assert both[2] > both[1]


def test_important_rows_of_the_oracle():
    rows, _ = important_rows([1.0, 4.0, 2.0, 3.0], {1}, 0.5)
    assert rows == [3]
    assert important_rows([1.0, 4.0, 2.0, 3.0], {1}, 0.84)[0] == [3, 2]
    assert important_rows([1.0, 4.0, 2.0, 3.0], set(), 0.1)[0] == [1]
    assert important_rows([1.0], {0}, 0.5)[0] == []


def test_ragged_batches_equal_singles():
    pair = make_pair("llada-gqa", 2)
    prompts = random_prompts(2, [3, 11, 1, 7, 20])
    seeds = [11, 5, 2**40, 0, 2**62 + 1]
    cache = make_config("d2", current_k=5, rollout_p=0.3, inflate_w=2)
    for options in ({"block_length": 8}, {"threshold": 0.35}, {"temperature": 0.7}):
        options = {"gen_length": 16, "cache": cache, "trace": True, **options}
        alone = [
            dlmcache_cuda.decode(pair.model, [prompt], seed=[seed], **options).sequences[0]
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
        for size in (5, 2):
            out = dlmcache_cuda.decode(pair.model, prompts, seed=seeds, batch_size=size, **options)
            for i, (one, single) in enumerate(zip(out.sequences, alone, strict=True)):
                where = f"sequence {i}, batch_size {size}, {options}"
                assert one.ids.tolist() == single.ids.tolist(), where
                assert one.commit_step.tolist() == single.commit_step.tolist(), where
                assert one.rows_computed == single.rows_computed, where
                for n, (a, b) in enumerate(zip(one.trace, single.trace, strict=True)):
                    rows = [[r.tolist() for r in step.rows] for step in (a, b)]
                    assert rows[0] == rows[1], f"sequence {i}, step {n}, batch_size {size}"


def test_it_chooses_the_masks_itself():
    pair = make_pair("llada", 1)
    with pytest.raises(ValueError, match="'d2' chooses .* remasking='random_order'"):
        dlmcache_cuda.decode(
            pair.model, random_prompts(1, [4]), gen_length=8, cache="d2", remasking="random_order"
        )


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    model=st.sampled_from(list(MODELS)),
    model_seed=st.integers(0, 3),
    decoding=small_settings(),
    current_k=st.integers(1, 10),
    rollout_p=st.sampled_from([0.0, 0.05, 0.1, 0.3, 0.7]),
    sigma=st.sampled_from([1.5, 3.0, 10.0]),
    inflate_w=st.integers(0, 4),
    certainty_prior=st.booleans(),
    refresh_steps=st.none() | st.integers(2, 6),
    prompt_seed=st.integers(0, 2**31),
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    seed=st.integers(0, 2**63 - 5),
)
def test_decode_equals_the_oracle(
    model, model_seed, decoding, prompt_seed, lengths, seed, **options
):
    prompts = random_prompts(prompt_seed, lengths)
    seeds = [seed + i for i in range(len(prompts))]
    check(make_pair(model, model_seed), decoding, prompts, seeds, **options)
