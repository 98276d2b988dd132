"""decode(cache="elastic") against the oracle of Elastic-Cache: tokens, rows, tests, boundaries."""

from __future__ import annotations

import os
from itertools import zip_longest
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, note, settings
from hypothesis import strategies as st
from oracles.cases import COMMITS, MODELS, elastic_options, make_pair, small_settings
from oracles.compare import assert_equals_oracle, make_config, random_prompts
from oracles.elastic import ElasticOptions, decode_elastic
from oracles.sequence import Record, Settings
from oracles.vanilla import decode_vanilla

import dlmcache_cuda

EXAMPLES = int(os.environ.get("DLMCACHE_TEST_EXAMPLES", "10"))
SEEDS = [3, 2**33, 2**61 + 9]
LENGTHS = [6, 1, 11]
# The similarities of random models: which layer fails first moves down as gamma grows.
GAMMAS = [-1.0, 0.9, 0.95, 0.98, 2.0]
OPTIONS: dict[str, dict[str, Any]] = {
    "window-4": {"window_length": 4},
    "window-1": {"window_length": 1},
    "no-window": {"window_length": None},
    "three-tracked": {"window_length": 3, "track_num": 3},
    "all-masks": {"window_length": 4, "block_caching": False},
    "rows": {"window_length": 4, "similarity": "rows", "track_num": 2},
    "no-cut": {"window_length": 5, "eos_cut": False},
    "interval": {"window_length": 4, "refresh_steps": 3},
}


def check(pair, decoding: Settings, prompts=None, seeds=None, **options: Any) -> list[Record]:
    prompts = random_prompts(9, LENGTHS) if prompts is None else prompts
    cache = make_config("elastic", **options)
    records = assert_equals_oracle(
        pair, prompts, decoding, cache, seeds=seeds or SEEDS[: len(prompts)], trace=True
    )
    assert records.count(None) <= 1
    return [record for record in records if record is not None]


def decode(pair, prompts, cache: Any, **options: Any) -> Any:
    return dlmcache_cuda.decode(pair.model, prompts, cache=cache, trace=True, **options)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", OPTIONS)
def test_options(name, model):
    """Each setting with another gamma for each model."""
    place = 2 * list(OPTIONS).index(name) + list(MODELS).index(model)
    gamma = GAMMAS[place % len(GAMMAS)]
    pair = make_pair(model, 1 + place % 3)
    check(pair, Settings(10, stop_at_eos=False), gamma=gamma, **OPTIONS[name])


@pytest.mark.parametrize("model", ["llada-gqa", "dream"])
@pytest.mark.parametrize("commit", COMMITS)
def test_commits(commit, model):
    gamma, window = [(0.95, 4), (0.98, 7)][len(model + commit) % 2]
    decoding = Settings(12, **COMMITS[commit])
    check(make_pair(model, 4), decoding, gamma=gamma, window_length=window)


def test_these_tests_meet_every_boundary_and_both_ends():
    """Otherwise they would prove little."""
    boundaries, reasons, cut = set(), set(), 0
    for model_seed in range(3):
        pair = make_pair("llada", model_seed)
        for gamma in (0.9, 0.95):
            prompts = random_prompts(model_seed, LENGTHS)
            for record in check(pair, Settings(12), prompts, gamma=gamma, window_length=4):
                boundaries |= set(record.boundaries)
                reasons.add(record.stop_reason)
                masks = [g for g, step in enumerate(record.commit_step) if step < 0]
                cut += record.stop_reason == "end_of_text" and len(masks) > 0
    assert boundaries == {None, 1, 2, 3}
    assert reasons == {"length", "end_of_text"}
    assert cut > 0


def test_ragged_batches_equal_singles_and_every_sequence_has_its_own_boundary():
    pair = make_pair("llada-gqa", 2)
    prompts = random_prompts(2, [3, 11, 1, 7, 20])
    seeds = [11, 5, 2**40, 0, 2**62 + 1]
    cache = make_config("elastic", gamma=0.96, window_length=5)
    apart = 0
    for options in ({"block_length": 8}, {"threshold": 0.35}, {"temperature": 0.7}):
        options = {"gen_length": 16, "stop_at_eos": False, **options}
        batches = [
            decode(pair, prompts, cache, seed=seeds, batch_size=size, **options) for size in (5, 2)
        ]
        for i, prompt in enumerate(prompts):
            (single,) = decode(pair, [prompt], cache, seed=[seeds[i]], **options).sequences
            for batch in batches:
                assert_same_course(batch.sequences[i], single, f"sequence {i}, {options}")
        for steps in zip_longest(*(s.trace for s in batches[0].sequences)):
            apart += len({step.boundary for step in steps if step is not None}) > 2
    assert apart > 3


def assert_same_course(one: Any, other: Any, where: str) -> None:
    assert one.ids.tolist() == other.ids.tolist(), where
    assert one.commit_step.tolist() == other.commit_step.tolist(), where
    for name in ("forwards", "rows_computed", "refreshes", "stop_reason"):
        assert getattr(one, name) == getattr(other, name), f"{where}: {name}"
    for n, (a, b) in enumerate(zip(one.trace, other.trace, strict=True)):
        assert [x.tolist() for x in a.rows] == [x.tolist() for x in b.rows], f"{where}, step {n}"
        assert (a.refresh, a.boundary) == (b.refresh, b.boundary), f"{where}, step {n}"


@pytest.mark.parametrize("gamma", [-1.0, -2.5])
def test_low_gamma_never_refreshes(gamma):
    """Similarities are at least -1, so that only the first step computes everything."""
    pair = make_pair("llada", 5)
    out = decode(
        pair,
        random_prompts(5, LENGTHS),
        make_config("elastic", gamma=gamma, window_length=4),
        gen_length=12,
        stop_at_eos=False,
        seed=SEEDS,
    )
    for sequence in out.sequences:
        assert sequence.refreshes == 1
        assert [step.refresh for step in sequence.trace] == [True] + [False] * 11
        assert all(step.boundary is None for step in sequence.trace)
        for step in sequence.trace[1:]:
            assert None not in step.similarity
            assert len({tuple(rows.tolist()) for rows in step.rows}) == 1
            assert len(step.rows[0]) <= 4 + 1 + 3  # window, fresh token, a tracked one per layer


@pytest.mark.parametrize("model", ["llada", "dream"])
def test_gamma_above_one_fails_in_layer_zero_of_every_step(model):
    """Which is not vanilla: layer 1 starts from the cached inputs of the rows not computed."""
    pair = make_pair(model, 5)
    cache = make_config("elastic", gamma=2.0, window_length=3, eos_cut=False)
    prompts = random_prompts(5, LENGTHS)
    options = {"gen_length": 12, "stop_at_eos": False, "seed": SEEDS}
    out = decode(pair, prompts, cache, **options)
    for sequence, prompt in zip(out.sequences, prompts, strict=True):
        everything = list(range(len(prompt) + 12))
        for step in sequence.trace[1:]:
            assert step.boundary == 1
            assert step.similarity[0] is not None
            assert step.similarity[1:] == (None, None)
            assert len(step.rows[0]) < len(everything)
            assert all(rows.tolist() == everything for rows in step.rows[1:])


def test_a_failed_test_of_the_last_layer_is_a_trigger_without_rows():
    seen = 0
    for model_seed in range(2):
        pair = make_pair("llada", model_seed)
        for record in check(pair, Settings(12, stop_at_eos=False), gamma=0.93, window_length=4):
            for step, boundary in enumerate(record.boundaries):
                if boundary == 3:
                    seen += 1
                    assert len(set(record.layer_rows[step])) == 1
    assert seen > 0


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("commit", ["fixed", "threshold", "warm", "guided"])
def test_refreshed_at_every_step_with_a_wide_window_equals_vanilla(commit, model):
    pair = make_pair(model, 6)
    prompts = random_prompts(6, LENGTHS)
    options = {"gen_length": 12, "seed": SEEDS, **COMMITS[commit], "block_length": None}
    vanilla = dlmcache_cuda.decode(pair.model, prompts, **options)
    for window in (12, None):
        cache = make_config(
            "elastic",
            refresh_steps=1,
            window_length=window,
            eos_cut=False,
            gamma=0.9,
            mask_is_final=False,
        )
        out = decode(pair, prompts, cache, **options)
        for a, b in zip(out.sequences, vanilla.sequences, strict=True):
            assert a.ids.tolist() == b.ids.tolist()
            assert a.commit_step.tolist() == b.commit_step.tolist()
            assert (a.rows_computed, a.refreshes) == (b.rows_computed, b.forwards)


@pytest.mark.parametrize("model", ["llada", "dream"])
@pytest.mark.parametrize("commit", ["fixed", "threshold", "guided"])
def test_the_oracle_refreshed_at_every_step_equals_the_vanilla_oracle(commit, model):
    pair = make_pair(model, 7)
    options = ElasticOptions(
        refresh_steps=1, window_length=None, eos_cut=False, mask_is_final=False
    )
    decoding = Settings(8, **COMMITS[commit])
    prompt = random_prompts(7, [5])[0].tolist()
    record = decode_elastic(pair.plain, prompt, decoding, pair.ids, options)
    vanilla = decode_vanilla(pair.plain, prompt, decoding, pair.ids)
    assert (record.ids, record.commit_step) == (vanilla.ids, vanilla.commit_step)
    assert record.layer_rows == vanilla.layer_rows


@pytest.mark.parametrize("mask_is_final", [True, False])
def test_where_the_mask_is_predicted(mask_is_final):
    """The authors' list of masks loses such a position; LLaDA's loop comes back to it."""
    cache = make_config("elastic", window_length=3, gamma=0.9, mask_is_final=mask_is_final)
    settings = Settings(10, stop_at_eos=False)
    chosen = final = 0
    for seed in range(6, 10):
        pair = make_pair("llada", seed)
        prompts = random_prompts(seed, LENGTHS)
        for record in assert_equals_oracle(pair, prompts, settings, cache):
            if record is not None:
                chosen += record.masks_chosen
                steps = zip(record.ids, record.commit_step, strict=True)
                final += sum(token == pair.ids.mask and step >= 0 for token, step in steps)
    assert chosen > 0
    assert (final > 0) == mask_is_final


def test_it_chooses_the_masks_itself():
    pair = make_pair("llada", 1)
    with pytest.raises(ValueError, match="'elastic' chooses .* remasking='random_order'"):
        dlmcache_cuda.decode(
            pair.model,
            random_prompts(1, [4]),
            gen_length=8,
            cache="elastic",
            remasking="random_order",
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
    options=elastic_options(),
    prompt_seed=st.integers(0, 2**31),
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    seed=st.integers(0, 2**63 - 5),
)
def test_decode_equals_the_oracle(model, model_seed, decoding, options, prompt_seed, lengths, seed):
    prompts = random_prompts(prompt_seed, lengths)
    seeds = [seed + i for i in range(len(prompts))]
    records = check(make_pair(model, model_seed), decoding, prompts, seeds, **options)
    note(f"smallest margins: {[(record.margin, record.row_gap) for record in records]}")
    for record in records:
        event(f"boundaries {sorted({b for b in record.boundaries if b is not None})}")
