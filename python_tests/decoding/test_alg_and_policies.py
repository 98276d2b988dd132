"""Dream's sampling under every cache policy."""

from __future__ import annotations

import functools

import pytest
import torch
from oracles.compare import random_prompts

import dlmcache_cuda
from dlmcache_cuda.policies import available_policies
from dlmcache_cuda.testing.tiny_model import random_model

POLICIES = available_policies()
FREE = [name for name, policy in POLICIES.items() if policy.remasking is None]
OPTIONS = {"gen_length": 12, "block_length": 6, "seed": [4, 9], "stop_at_eos": False}


@functools.cache
def model_of(model_type: str):
    return random_model(6, model_type=model_type)


@pytest.mark.parametrize("alg", ["origin", "maskgit_plus", "topk_margin"])
@pytest.mark.parametrize("name", FREE)
def test_exact_settings_equal_vanilla(name, alg):
    prompts = random_prompts(6, [7, 3])
    options = OPTIONS | {"alg": alg, "temperature": 0.4, "top_p": 0.9, "steps": 8}
    cache = POLICIES[name].exact_config()
    exact = dlmcache_cuda.decode(model_of("Dream"), prompts, cache=cache, **options)
    vanilla = dlmcache_cuda.decode(model_of("Dream"), prompts, **options)
    for a, b in zip(exact.sequences, vanilla.sequences, strict=True):
        assert a.ids.tolist() == b.ids.tolist()
        assert a.commit_step.tolist() == b.commit_step.tolist()
        assert a.forwards == b.forwards


@pytest.mark.parametrize("alg", ["origin", "maskgit_plus"])
@pytest.mark.parametrize("model_type", ["llada", "Dream"])
@pytest.mark.parametrize("name", FREE)
def test_caches_decode_to_the_end(name, model_type, alg):
    prompts = random_prompts(7, [7, 3])
    model = model_of(model_type)
    # d2 ranks positions itself, unless it is told not to.
    config = POLICIES[name].Config(**{"certainty_prior": False} if name == "d2" else {})
    options = OPTIONS | {"cache": config, "alg": alg, "steps": 10}
    out = dlmcache_cuda.decode(model, prompts, **options)
    alone = dlmcache_cuda.decode(model, prompts[1:], **options | {"seed": [9]})
    assert torch.equal(out.sequences[1].ids, alone.sequences[0].ids)
    for sequence in out.sequences:
        assert sequence.forwards <= 10


def test_right_shift_waits_for_what_is_due():
    config = POLICIES["dkv-decode"].Config(cache_reloading_step=20, shift_type="right")
    for alg in ("origin", "entropy"):
        out = dlmcache_cuda.decode(
            model_of("Dream"), random_prompts(8, [5, 6]), cache=config, alg=alg, steps=6, **OPTIONS
        )
        for sequence in out.sequences:
            masks = sequence.ids == model_of("Dream").mask_token_id
            assert sequence.commit_step[~masks].min() >= 0


def test_a_ranking_that_a_policy_brings_along():
    model, (prompt,) = model_of("Dream"), random_prompts(9, [4])
    options = {"gen_length": 8, "cache": "d2"}
    default = dlmcache_cuda.decode(model, [prompt], **options)
    named = dlmcache_cuda.decode(model, [prompt], alg="maskgit_plus", **options)
    assert torch.equal(default.ids[0], named.ids[0])
    for bad in ({"alg": "entropy"}, {"alg": "maskgit_plus", "alg_temp": 0.1}):
        with pytest.raises(ValueError, match="cache 'd2' ranks positions by confidences of its ow"):
            dlmcache_cuda.decode(model, [prompt], **options, **bad)
    free = POLICIES["d2"].Config(certainty_prior=False)
    dlmcache_cuda.decode(model, [prompt], gen_length=8, cache=free, alg="entropy")


def test_an_order_that_a_policy_brings_along():
    with pytest.raises(ValueError, match="'dkv-greedy' needs remasking='random_order', got alg="):
        dlmcache_cuda.decode(
            model_of("llada"), [torch.tensor([1, 2])], cache="dkv-greedy", alg="entropy"
        )
