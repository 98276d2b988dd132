"""A sequence decodes to the same tokens, at the same cost, whatever else is in the batch."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from oracles.compare import load_pair, random_prompts

import dlmcache_cuda
from dlmcache_cuda.decoding.seeds import sequence_seed

LENGTHS = [3, 11, 1, 7, 20]
SEEDS = [11, 5, 2**40, 0, 2**62 + 1]
COMMITS: dict[str, dict[str, Any]] = {
    "fixed": {},
    "three-per-step": {"steps": 9},
    "threshold": {"threshold": 0.35},
    "factor": {"factor": 1.2},
    "warm": {"temperature": 0.7},
    "random": {"remasking": "random"},
    "guided": {"cfg_scale": 0.5},
}


def assert_same(one: Any, other: Any, where: str) -> None:
    """Two decoded sequences that must agree in all but rounding of the confidence."""
    assert one.ids.tolist() == other.ids.tolist(), where
    assert one.commit_step.tolist() == other.commit_step.tolist(), where
    torch.testing.assert_close(one.confidence, other.confidence, rtol=0, atol=1e-5, equal_nan=True)
    assert one.prompt_ids.tolist() == other.prompt_ids.tolist(), where
    for name in ("forwards", "rows_computed", "stop_reason"):
        assert getattr(one, name) == getattr(other, name), f"{where}: {name}"


def singles(model: Any, prompts: list[torch.Tensor], **options: Any) -> list[Any]:
    outs = [
        dlmcache_cuda.decode(model, [prompt], seed=[seed], **options)
        for prompt, seed in zip(prompts, SEEDS, strict=True)
    ]
    for out in outs:  # a batch of one costs what its sequence costs
        assert out.stats.forwards == out.sequences[0].forwards
        assert out.stats.rows_computed == out.sequences[0].rows_computed
    return outs


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
@pytest.mark.parametrize("commit", COMMITS)
def test_ragged_batch_equals_singles(commit, cache):
    model = load_pair(2).model
    prompts = random_prompts(2, LENGTHS)
    options = {"gen_length": 24, "block_length": 8, "cache": cache, **COMMITS[commit]}
    alone = singles(model, prompts, **options)
    for batch_size in (None, 2):
        out = dlmcache_cuda.decode(model, prompts, seed=SEEDS, batch_size=batch_size, **options)
        for i, (sequence, single) in enumerate(zip(out.sequences, alone, strict=True)):
            where = f"sequence {i}, batch_size {batch_size}"
            assert_same(sequence, single.sequences[0], where)
        # a finished sequence costs nothing: the batch computes what its sequences compute
        assert out.stats.rows_computed == sum(s.stats.rows_computed for s in alone)
        assert out.stats.refreshes == sum(s.stats.refreshes for s in alone)
        assert out.stats.visible_tokens == sum(s.stats.visible_tokens for s in alone)


def test_sequences_end_at_different_times():
    """Otherwise the test above would not exercise slots that are reused while others go on."""
    model = load_pair(2).model
    prompts = random_prompts(2, LENGTHS)
    out = dlmcache_cuda.decode(model, prompts, gen_length=24, block_length=8, seed=SEEDS)
    assert len({sequence.forwards for sequence in out.sequences}) > 2
    assert {sequence.stop_reason for sequence in out.sequences} == {"end_of_text", "length"}


@pytest.mark.parametrize("cache", ["none", "dual"])
def test_order_of_the_prompts_does_not_matter(cache):
    model = load_pair(4).model
    prompts = random_prompts(4, LENGTHS)
    options = {"gen_length": 16, "block_length": 4, "threshold": 0.3, "cache": cache}
    options["batch_size"] = 2
    forward = dlmcache_cuda.decode(model, prompts, seed=SEEDS, **options)
    backward = dlmcache_cuda.decode(model, prompts[::-1], seed=SEEDS[::-1], **options)
    for i, sequence in enumerate(forward.sequences):
        assert_same(sequence, backward.sequences[len(prompts) - 1 - i], f"sequence {i}")


def test_same_prompt_with_other_seeds_gives_other_samples():
    model = load_pair(4).model
    prompt = random_prompts(4, [6])[0]
    options = {"gen_length": 16, "temperature": 1.0, "stop_at_eos": False}
    out = dlmcache_cuda.decode(model, [prompt] * 4, seed=[1, 2, 1, 3], **options)
    assert_same(out.sequences[0], out.sequences[2], "equal seeds")
    assert len({tuple(sequence.ids.tolist()) for sequence in out.sequences}) == 3


def test_one_seed_gives_each_sequence_its_own():
    model = load_pair(4).model
    prompts = random_prompts(4, [6, 2, 9])
    options = {"gen_length": 16, "temperature": 1.0, "remasking": "random"}
    out = dlmcache_cuda.decode(model, prompts, seed=77, **options)
    again = dlmcache_cuda.decode(model, prompts, seed=77, **options)
    for i, sequence in enumerate(out.sequences):
        assert_same(sequence, again.sequences[i], "repeated run")
        own = dlmcache_cuda.decode(model, [prompts[i]], seed=[sequence_seed(77, i)], **options)
        assert_same(sequence, own.sequences[0], f"sequence {i} with its own seed")
    seeds = [sequence_seed(seed, i) for seed in (0, 1, 77, 2**63 - 1) for i in range(50)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_threads_may_share_a_model():
    model = load_pair(4).model
    prompts = random_prompts(4, LENGTHS)
    caches = ["none", "prefix", "dual", "dual"]

    def run(cache: str) -> Any:
        return dlmcache_cuda.decode(
            model, prompts, gen_length=16, block_length=4, temperature=0.5, cache=cache, seed=SEEDS
        )

    expected = [run(cache) for cache in caches]
    with ThreadPoolExecutor(len(caches)) as pool:
        for one, other in zip(expected, pool.map(run, caches), strict=True):
            for i, sequence in enumerate(one.sequences):
                assert_same(sequence, other.sequences[i], f"sequence {i}")
