"""Settings in which a cached method must commit exactly what uncached decoding commits."""

from __future__ import annotations

from typing import Any

import pytest
from oracles.compare import load_pair, random_prompts

import dlmcache_cuda
from dlmcache_cuda import available_policies

MODEL_SEEDS = (3, 8)
COMMITS: dict[str, dict[str, Any]] = {
    "fixed": {},
    "two-per-step": {"steps": 8},
    "threshold": {"threshold": 0.3},
    "factor": {"factor": 1.0},
    "warm": {"temperature": 0.6},
    "random": {"remasking": "random"},
    "guided": {"cfg_scale": 0.5},
}


def decode(model_seed: int, **options: Any) -> Any:
    pair = load_pair(model_seed)
    prompts = random_prompts(model_seed, [8, 2, 13])
    return dlmcache_cuda.decode(pair.model, prompts, seed=[1, 2, 3], **options)


def assert_same_tokens(one: Any, other: Any) -> None:
    for a, b in zip(one.sequences, other.sequences, strict=True):
        assert a.ids.tolist() == b.ids.tolist()
        assert a.commit_step.tolist() == b.commit_step.tolist()
        assert (a.forwards, a.stop_reason) == (b.forwards, b.stop_reason)


@pytest.mark.parametrize("model_seed", MODEL_SEEDS)
@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_fast_dllm_with_blocks_of_one_token_equals_vanilla(cache, model_seed):
    """Every forward is the first of a block, so nothing cached is ever used."""
    options = {"gen_length": 12, "block_length": 1, "stop_at_eos": False}
    vanilla = decode(model_seed, **options)
    cached = decode(model_seed, cache=cache, **options)
    assert_same_tokens(cached, vanilla)
    assert cached.stats.rows_computed == vanilla.stats.rows_computed == vanilla.stats.rows_vanilla
    assert cached.stats.refreshes == 3 * 12


@pytest.mark.parametrize("model_seed", MODEL_SEEDS)
@pytest.mark.parametrize("commit", COMMITS)
@pytest.mark.parametrize("name", available_policies())
def test_exact_config_equals_vanilla(name, commit, model_seed):
    options = {"gen_length": 16, "block_length": 4, **COMMITS[commit]}
    policy = available_policies()[name]
    if policy.remasking is not None:
        if {"threshold", "factor", "remasking"} & set(options):
            pytest.skip(f"{name} is defined for remasking={policy.remasking!r}")
        options["remasking"] = policy.remasking
    exact = decode(model_seed, cache=policy.exact_config(), **options)
    assert_same_tokens(exact, decode(model_seed, **options))


@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_one_block_in_one_step_equals_vanilla(cache):
    options = {"gen_length": 8, "steps": 1, "stop_at_eos": False}
    vanilla = decode(3, **options)
    cached = decode(3, cache=cache, **options)
    assert_same_tokens(cached, vanilla)
    assert cached.stats.rows_computed == vanilla.stats.rows_computed
    assert [s.forwards for s in cached.sequences] == [1, 1, 1]


def test_prefix_with_one_block_saves_the_rows_of_the_prompt():
    """One block: every step computes all generated rows, so that only the prompt's are saved."""
    options = {"gen_length": 8, "stop_at_eos": False}
    layers = load_pair(3).plain.config.n_layers
    cached = decode(3, cache="prefix", **options)
    for sequence, prompt_length in zip(cached.sequences, [8, 2, 13], strict=True):
        assert sequence.rows_computed == ((prompt_length + 8) + 7 * 8) * layers


@pytest.mark.parametrize("model_seed", MODEL_SEEDS)
@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
@pytest.mark.parametrize("commit", COMMITS)
def test_stopping_at_the_end_of_text_does_not_change_the_visible_text(commit, cache, model_seed):
    options = {"gen_length": 16, "block_length": 8, "cache": cache, **COMMITS[commit]}
    stopped = decode(model_seed, **options)
    full = decode(model_seed, stop_at_eos=False, **options)
    for a, b in zip(stopped.sequences, full.sequences, strict=True):
        assert a.visible_ids.tolist() == b.visible_ids.tolist()
        assert a.forwards <= b.forwards
        assert b.stop_reason != "end_of_text"
        if a.stop_reason == "end_of_text":
            behind = a.ids[len(a.visible_ids) + 1 :]
            steps = a.commit_step[len(a.visible_ids) + 1 :]
            assert (behind[steps < 0] == load_pair(model_seed).ids.pad).all()
    assert stopped.stats.visible_tokens == full.stats.visible_tokens
