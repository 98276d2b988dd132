"""decode(cache="composed") against its oracle, and what is left when a part is switched off."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from oracles.cases import COMMITS, MODELS, elastic_options, make_pair, small_settings
from oracles.compare import assert_equals_oracle, make_config, random_prompts
from oracles.composed import ComposedOptions, decode_composed
from oracles.elastic import ElasticOptions, decode_elastic
from oracles.sequence import Record, Settings

import dlmcache_cuda

EXAMPLES = int(os.environ.get("DLMCACHE_TEST_EXAMPLES", "10"))
SEEDS = [3, 2**33, 2**61 + 9]
LENGTHS = [6, 1, 11]
OPTIONS: dict[str, dict[str, Any]] = {
    "default-budget": {"gamma": 0.97},
    "half": {"gamma": 0.98, "max_update_ratio": 0.5, "budget": "uniform"},
    "rank-3": {"gamma": 0.98, "proxy_rank": 3, "max_update_ratio": 0.4, "min_update_ratio": 0.2},
    "part-of-the-ranks": {"gamma": 2.0, "proxy_rank": 0.5, "peak": 0.5, "last_ratio": 0.25},
    "delay-3": {"gamma": 0.97, "delay_steps": 3},
    "no-delay": {"gamma": 0.97, "delay_steps": 0},
    "interval": {"gamma": 0.96, "refresh_steps": 4, "max_update_ratio": 0.5},
    "interval-only": {"gamma": None, "refresh_steps": 3, "max_update_ratio": 0.6},
    "all-masks": {"gamma": 0.98, "block_caching": False, "track_num": 2},
    "no-part": {"gamma": None, "max_update_ratio": None, "delay_steps": 0},
}
WITHOUT_SPA: dict[str, dict[str, Any]] = {
    "off": {"max_update_ratio": None},
    "everything": {"max_update_ratio": 1.0, "budget": "uniform"},
}


def check(pair, decoding: Settings, prompts=None, seeds=None, **options: Any) -> list[Record]:
    prompts = random_prompts(9, LENGTHS) if prompts is None else prompts
    cache = make_config("composed", **{"window_length": 4, **options})
    records = assert_equals_oracle(
        pair, prompts, decoding, cache, seeds=seeds or SEEDS[: len(prompts)], trace=True
    )
    assert records.count(None) <= 1
    return [record for record in records if record is not None]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", OPTIONS)
def test_options(name, model):
    place = list(OPTIONS).index(name) + list(MODELS).index(model)
    decoding = [Settings(10, stop_at_eos=False), Settings(12, 6, 6)][place % 2]
    check(make_pair(model, 1 + place % 3), decoding, **OPTIONS[name])


@pytest.mark.parametrize("model", ["llada-gqa", "dream"])
@pytest.mark.parametrize("commit", COMMITS)
def test_commits(commit, model):
    check(make_pair(model, 4), Settings(12, **COMMITS[commit]), gamma=0.975)


def test_these_tests_meet_sparse_layers_behind_every_boundary():
    """Otherwise they would prove little."""
    boundaries, sparse, whole = set(), set(), 0
    for model_seed in range(2):
        pair = make_pair("llada-gqa", model_seed)
        for record in check(pair, Settings(12, stop_at_eos=False), gamma=0.97):
            boundaries |= set(record.boundaries)
            for rows, boundary in zip(record.layer_rows, record.boundaries, strict=True):
                if boundary is not None and boundary < len(rows):
                    whole += 1
                    sparse |= {n for n, r in enumerate(rows) if n > boundary and r < rows[boundary]}
    assert boundaries >= {None, 1, 2, 3}
    assert sparse == {2, 3}
    assert whole > 10


@pytest.mark.parametrize("part", WITHOUT_SPA.values(), ids=WITHOUT_SPA)
@pytest.mark.parametrize("model", ["llada-gqa", "dream"])
@pytest.mark.parametrize(
    "options",
    [
        {"gamma": 0.97, "window_length": 4},
        {"gamma": 0.95, "window_length": 3, "track_num": 2, "similarity": "rows"},
        {"gamma": 0.98, "window_length": 4, "refresh_steps": 4, "block_caching": False},
        {"gamma": 2.0, "window_length": None, "eos_cut": False},
    ],
    ids=str,
)
def test_without_the_choice_of_rows_it_is_elastic(options, model, part):
    pair = make_pair(model, 3)
    prompts = random_prompts(3, LENGTHS)
    for decoding in ({"block_length": 6}, {"threshold": 0.4, "stop_at_eos": False}):
        outs = [
            dlmcache_cuda.decode(
                pair.model, prompts, gen_length=12, cache=cache, seed=SEEDS, trace=True, **decoding
            )
            for cache in (
                make_config("elastic", **options),
                make_config("composed", **options, **part),
            )
        ]
        for i, (one, other) in enumerate(zip(*(out.sequences for out in outs), strict=True)):
            where = f"sequence {i}, {decoding}"
            assert one.ids.tolist() == other.ids.tolist(), where
            assert one.commit_step.tolist() == other.commit_step.tolist(), where
            for n, (a, b) in enumerate(zip(one.trace, other.trace, strict=True)):
                where = f"sequence {i}, step {n}, {decoding}"
                assert (a.refresh, a.boundary) == (b.refresh, b.boundary), where
                assert [r.tolist() for r in a.rows] == [r.tolist() for r in b.rows], where
                assert a.similarity == pytest.approx(b.similarity, abs=1e-5), where


@pytest.mark.parametrize("part", WITHOUT_SPA.values(), ids=WITHOUT_SPA)
@pytest.mark.parametrize("gamma,similarity", [(0.95, "heads"), (0.98, "rows"), (2.0, "heads")])
def test_the_oracle_without_the_choice_of_rows_is_elastics(gamma, similarity, part):
    for model in ("llada", "dream"):
        pair = make_pair(model, 5)
        elastic = ElasticOptions(gamma, window_length=4, similarity=similarity, track_num=2)
        composed = ComposedOptions(**dataclasses.asdict(elastic), **part)
        for decoding in (Settings(10), Settings(8, 4, threshold=0.4)):
            prompt = random_prompts(5, [7])[0].tolist()
            one = decode_elastic(pair.plain, prompt, decoding, pair.ids, elastic)
            other = decode_composed(pair.plain, prompt, decoding, pair.ids, composed)
            assert (one.ids, one.commit_step) == (other.ids, other.commit_step)
            assert one.layer_rows == other.layer_rows
            assert one.boundaries == other.boundaries
            assert one.tracked == other.tracked


def test_without_the_drift_test_only_the_interval_refreshes():
    pair = make_pair("llada", 6)
    options = {"gamma": None, "refresh_steps": 5, "max_update_ratio": 0.5, "budget": "uniform"}
    for record in check(pair, Settings(12, stop_at_eos=False), **options):
        assert record.refresh_steps == [0, 5, 10]
        assert set(record.boundaries) == {None}
        assert set(record.similarities) == {(None,) * 3}
        length = max(len(rows) for rows in record.layer_rows[0])
        for step in range(12):
            rows = [len(rows) for rows in record.layer_rows[step]]
            if step == 0:
                assert rows == [length] * 3
            elif step in (5, 10):
                assert rows == [length] + [max(length // 2, rows[1])] * 2
                assert rows[1] < length
            else:
                assert max(rows) < length
    for record in check(pair, Settings(12, stop_at_eos=False), gamma=None):
        assert record.refresh_steps == [0]


def test_a_delay_keeps_committed_rows_for_as_many_steps():
    pair = make_pair("llada", 7)
    for delay in (0, 1, 3):
        options = {"gamma": None, "max_update_ratio": None, "delay_steps": delay}
        for record in check(pair, Settings(12, stop_at_eos=False), **options):
            first = max(record.layer_rows[0][0]) + 1 - 12
            for g, committed in enumerate(record.commit_step):
                for step in range(committed + 1, min(committed + 1 + delay, record.forwards)):
                    assert first + g in record.layer_rows[step][0]
            # without drift test and delay: the window and tracked rows
            if delay == 0:
                for step in range(1, record.forwards):
                    fresh = {first + g for g, s in enumerate(record.commit_step) if s == step - 1}
                    tracked = frozenset().union(*record.tracked[step - 1])
                    assert not fresh & (record.layer_rows[step][0] - tracked)


def test_ragged_batches_equal_singles():
    pair = make_pair("llada-gqa", 2)
    prompts = random_prompts(2, [3, 11, 1, 7, 20])
    seeds = [11, 5, 2**40, 0, 2**62 + 1]
    cache = make_config("composed", gamma=0.97, window_length=5, refresh_steps=6)
    for options in ({"block_length": 8}, {"threshold": 0.35}, {"temperature": 0.7}):
        options = {"gen_length": 16, "stop_at_eos": False, "cache": cache, "trace": True, **options}
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
                    where = f"sequence {i}, step {n}, batch_size {size}"
                    assert (a.refresh, a.boundary) == (b.refresh, b.boundary), where
                    assert [r.tolist() for r in a.rows] == [r.tolist() for r in b.rows], where


def test_it_chooses_the_masks_itself():
    pair = make_pair("llada", 1)
    with pytest.raises(ValueError, match="'composed' chooses .* remasking='random_order'"):
        dlmcache_cuda.decode(
            pair.model,
            random_prompts(1, [4]),
            gen_length=8,
            cache="composed",
            remasking="random_order",
        )


@st.composite
def composed_options(draw) -> dict[str, Any]:
    options = draw(elastic_options())
    options["gamma"] = draw(st.sampled_from([None, 0.92, 0.96, 0.98, 2.0]))
    options["delay_steps"] = draw(st.integers(0, 3))
    options["max_update_ratio"] = draw(st.sampled_from([None, 0.2, 0.5, 1.0]))
    options["budget"] = draw(st.sampled_from(["gaussian", "uniform"]))
    options["peak"] = draw(st.sampled_from([0.4, 0.75]))
    options["proxy_rank"] = draw(st.sampled_from([2, 6, 128, 0.5, 1.0]))
    return options


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
    options=composed_options(),
    prompt_seed=st.integers(0, 2**31),
    lengths=st.lists(st.integers(1, 12), min_size=1, max_size=3),
    seed=st.integers(0, 2**63 - 5),
)
def test_decode_equals_the_oracle(model, model_seed, decoding, options, prompt_seed, lengths, seed):
    prompts = random_prompts(prompt_seed, lengths)
    seeds = [seed + i for i in range(len(prompts))]
    records = check(make_pair(model, model_seed), decoding, prompts, seeds, **options)
    for record in records:
        event(f"boundaries {sorted({b for b in record.boundaries if b is not None})}")
