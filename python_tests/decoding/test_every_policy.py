"""What holds for every policy, on LLaDA and on Dream, with settings that do some work."""

from __future__ import annotations

import pytest
import torch
from oracles.compare import random_prompts
from oracles.every_policy import CASES, POLICIES, assert_same, config_of, model_of, options_of

import dlmcache_cuda
from dlmcache_cuda.testing.tiny_model import random_model

LENGTHS = [3, 11, 1, 7, 20]
SEEDS = [11, 5, 2**40, 0, 2**62 + 1]


@pytest.mark.parametrize("block_length", [None, 8])
@pytest.mark.parametrize(("family", "name"), CASES)
def test_five_ragged_prompts_give_what_each_gives_alone(family, name, block_length):
    model = model_of(family)
    prompts = random_prompts(2, LENGTHS)
    options = options_of(name, gen_length=24, block_length=block_length, cache=config_of(name))
    alone = [
        dlmcache_cuda.decode(model, [prompt], seed=[seed], trace=True, **options).sequences[0]
        for prompt, seed in zip(prompts, SEEDS, strict=True)
    ]
    for batch_size in (None, 2):
        out = dlmcache_cuda.decode(
            model, prompts, seed=SEEDS, batch_size=batch_size, trace=True, **options
        )
        for i, (sequence, single) in enumerate(zip(out.sequences, alone, strict=True)):
            assert_same(sequence, single, f"sequence {i}, batch_size {batch_size}")
        assert out.stats.rows_computed == sum(single.rows_computed for single in alone)


@pytest.mark.parametrize(("family", "name"), CASES)
def test_trace_is_consistent(family, name):
    model = model_of(family)
    prompts = random_prompts(3, [9, 4])
    options = options_of(name, gen_length=24, cache=config_of(name), seed=3, stop_at_eos=False)
    traced = dlmcache_cuda.decode(model, prompts, trace=True, **options)
    plain = dlmcache_cuda.decode(model, prompts, **options)
    layers = model.config.n_layers
    for sequence, untraced in zip(traced.sequences, plain.sequences, strict=True):
        assert untraced.trace is None
        assert sequence.ids.tolist() == untraced.ids.tolist()
        assert sequence.rows_computed == untraced.rows_computed
        assert len(sequence.trace) == sequence.forwards
        length = len(sequence.prompt_ids) + 24
        assert all(rows.tolist() == list(range(length)) for rows in sequence.trace[0].rows)
        total = 0
        for step in sequence.trace:
            assert len(step.rows) == len(step.similarity) == layers
            for rows in step.rows:
                assert rows.tolist() == sorted(set(rows.tolist()))
                assert not rows.numel() or (rows.min() >= 0 and rows.max() < length)
                total += rows.numel()
        assert total == sequence.rows_computed
        assert sequence.refreshes == sum(step.refresh for step in sequence.trace)
        assert sequence.to_dict()["trace"]["steps"][0]["boundary"] is None


@pytest.mark.parametrize(("family", "name"), CASES)
def test_every_policy_saves_rows(family, name):
    if name == "none":
        pytest.skip("vanilla computes everything")
    prompts = random_prompts(3, [9, 4])
    # A threshold far below 1: the drift of a random model is large.
    config = config_of(name)
    if name in ("elastic", "composed"):
        config = POLICIES[name].Config(window_length=4, gamma=-1)
    options = options_of(name, gen_length=24, block_length=8, cache=config, stop_at_eos=False)
    stats = dlmcache_cuda.decode(model_of(family), prompts, seed=3, **options).stats
    assert stats.rows_computed < 0.9 * stats.rows_vanilla


@pytest.mark.parametrize("commit", [{}, {"threshold": 0.3}, {"temperature": 0.6}])
@pytest.mark.parametrize("name", [name for family, name in CASES if family == "dream"])
def test_exact_settings_equal_vanilla_on_dream(name, commit):
    model, prompts = model_of("dream"), random_prompts(5, [8, 2, 13])
    options = {"gen_length": 16, "block_length": 4, "seed": [1, 2, 3], **commit}
    exact = dlmcache_cuda.decode(model, prompts, cache=POLICIES[name].exact_config(), **options)
    vanilla = dlmcache_cuda.decode(model, prompts, **options)
    for a, b in zip(exact.sequences, vanilla.sequences, strict=True):
        assert a.ids.tolist() == b.ids.tolist()
        assert a.commit_step.tolist() == b.commit_step.tolist()
        assert (a.forwards, a.stop_reason) == (b.forwards, b.stop_reason)


def test_a_policy_that_is_not_defined_for_a_model_is_refused():
    with pytest.raises(ValueError, match="cache 'dkv-greedy' is not defined for models"):
        dlmcache_cuda.decode(model_of("dream"), [torch.tensor([1, 2])], cache="dkv-greedy")


def test_an_order_that_a_policy_is_not_defined_for_is_refused():
    for remasking in ("low_confidence", "random"):
        with pytest.raises(ValueError, match="needs remasking='random_order', got"):
            dlmcache_cuda.decode(
                model_of("llada"), [torch.tensor([1, 2])], cache="dkv-greedy", remasking=remasking
            )


def test_spa_can_share_the_first_prediction_as_its_authors_do():
    """Between full steps row P predicts P and P + 1: a step that commits both writes one token."""
    config = POLICIES["spa"].Config(
        refresh_steps=50, refresh_gen_steps=1, proxy_rank=5, slice_shift=True
    )
    found = 0
    for seed in range(6):
        model = random_model(seed, n_layers=3, model_type="Dream")
        out = dlmcache_cuda.decode(
            model,
            random_prompts(seed, [5, 9, 2]),
            gen_length=12,
            steps=3,
            cache=config,
            stop_at_eos=False,
            trace=True,
            seed=seed,
        )
        for sequence in out.sequences:
            first = len(sequence.prompt_ids)
            assert all(step.rows[1].min() == first for step in sequence.trace[1:])
            one, other = sequence.commit_step[:2].tolist()
            if one == other > 0:
                found += 1
                assert sequence.ids[0] == sequence.ids[1]
    assert found > 0
