"""decode(cache="prefix") and decode(cache="dual") against the oracle of Fast-dLLM."""

from __future__ import annotations

import pytest
from oracles.compare import assert_equals_oracle, load_pair, make_config, random_prompts
from oracles.sequence import Settings

import dlmcache_cuda

BLOCKS = [(12, None, None), (16, 8, 10), (15, 5, 6), (12, 4, 24), (4, 1, 4)]
OPTIONS = {
    "plain": {},
    "to-the-end": {"stop_at_eos": False},
    "no-eos": {"logits_eos_inf": True},
    "warm": {"temperature": 0.7},
    "guided": {"cfg_scale": 0.6},
    "random-order": {"remasking": "random"},
    "threshold": {"threshold": 0.3},
    "threshold-warm": {"threshold": 0.6, "temperature": 0.5, "stop_at_eos": False},
    "factor-late-eos": {"factor": 2.0, "confidence_eos_eot_inf": True},
}


def check(settings: Settings, cache: str, model_seed: int) -> list:
    pair = load_pair(model_seed)
    prompts = random_prompts(model_seed, [6, 1, 11])
    records = assert_equals_oracle(pair, prompts, settings, cache, seeds=[3, 2**33, 2**61 + 9])
    assert records.count(None) <= 1
    return [record for record in records if record is not None]


@pytest.mark.parametrize("cache", ["prefix", "dual"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("gen_length,block_length,steps", BLOCKS)
def test_same_commits_and_rows(gen_length, block_length, steps, options, cache):
    settings = Settings(gen_length, block_length, steps, **options)
    check(settings, cache, model_seed=gen_length + (block_length or 0))


@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_rows_and_refreshes_are_those_of_the_method(cache):
    """One whole canvas per block, then [s, N) or [s, e); one refresh per block."""
    pair = load_pair(5)
    prompt = random_prompts(5, [7])
    settings = Settings(16, 4, stop_at_eos=False)
    (record,) = assert_equals_oracle(pair, prompt, settings, cache)
    cached = {"prefix": lambda begin: 23 - begin, "dual": lambda begin: 4}[cache]
    assert record.rows == [rows for begin in (7, 11, 15, 19) for rows in [23] + 3 * [cached(begin)]]
    out = dlmcache_cuda.decode(
        pair.model, prompt, gen_length=16, block_length=4, stop_at_eos=False, cache=cache, seed=[0]
    )
    assert out.stats.refreshes == len(record.refresh_steps) == 4
    assert out.stats.rows_vanilla == record.forwards * 23 * pair.plain.config.n_layers


@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_a_block_finished_by_its_first_forward_costs_one_forward(cache):
    """The authors' first code ran a wasted forward here, or crashed."""
    for record in check(Settings(16, 4, 4, stop_at_eos=False), cache, 5):
        assert record.forwards == 4
        assert record.refresh_steps == [0, 1, 2, 3]


@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_masks_left_behind_and_stalls(cache):
    chosen, reasons = 0, set()
    for model_seed in range(8):
        for settings in (Settings(20, 5, stop_at_eos=False), Settings(20, 5, threshold=0.9)):
            for record in check(settings, cache, model_seed):
                chosen += record.masks_chosen
                reasons.add(record.stop_reason)
    assert chosen > 0
    assert "stalled" in reasons


DREAM = {"family": "dream", "n_kv_heads": 2}


@pytest.mark.parametrize("cache", ["prefix", "dual"])
@pytest.mark.parametrize("first_token", [True, False])
@pytest.mark.parametrize("options", ["plain", "warm", "threshold", "guided", "random-order"])
def test_dream_keeps_the_row_before_the_block(options, first_token, cache):
    """It predicts the block's first position, which the first step commits alone."""
    settings = {**OPTIONS, "random-order": {"remasking": "random_order"}}[options]
    pair = load_pair(2, **DREAM)
    prompts = random_prompts(2, [6, 1])
    config = make_config(cache, first_token=first_token)
    for steps in (None, 8):
        records = assert_equals_oracle(
            pair, prompts, Settings(16, 4, steps, **settings), config, trace=True
        )
        for record in records:
            if record is not None and first_token and steps is None and options == "plain":
                assert all(
                    step in (-1, g) for g, step in enumerate(record.commit_step) if g % 4 == 0
                )


@pytest.mark.parametrize("cache", ["prefix", "dual"])
def test_dream_with_masks_left_behind(cache):
    chosen = 0
    for model_seed in (3, 6, 7):
        for settings in (Settings(20, 5, stop_at_eos=False), Settings(20, 5, threshold=0.9)):
            prompts = random_prompts(model_seed, [6, 1, 11])
            records = assert_equals_oracle(
                load_pair(model_seed, **DREAM), prompts, settings, cache, trace=True
            )
            chosen += sum(record.masks_chosen for record in records if record is not None)
    assert chosen > 0
