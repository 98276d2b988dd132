"""The log-probability at commit is that of the model's own softmax, whatever ranked the tokens."""

from __future__ import annotations

import functools
import json

import pytest
import torch
from oracles.resident import resident
from torch import Tensor

import dlmcache_cuda
from dlmcache_cuda.decoding.arguments import check_settings
from dlmcache_cuda.decoding.decoder import SlotDecoder
from dlmcache_cuda.decoding.defaults import decode_defaults
from dlmcache_cuda.decoding.memory import predict
from dlmcache_cuda.policies import available_policies, make_policy
from dlmcache_cuda.testing.tiny_model import random_model

PROMPTS = [[3, 5, 8, 2], [9, 1]]
GEN_LENGTH = 12
SAMPLERS = {
    "default": {},
    "warm": {"temperature": 0.9},
    "threshold": {"threshold": 0.3, "block_length": 6},
    "factor": {"factor": 1.5},
    "random": {"remasking": "random"},
    "random-order": {"remasking": "random_order"},
    "guided": {"cfg_scale": 0.8},
    "logits-eos": {"logits_eos_inf": True},
    "confidence-eos": {"confidence_eos_eot_inf": True},
    "both-eos": {"logits_eos_inf": True, "confidence_eos_eot_inf": True, "temperature": 1.5},
    "suppressed": {"suppress_token_ids": [0, 2, 4, 6, 8], "confidence_eos_eot_inf": True},
    "guided-eos": {"cfg_scale": 0.8, "confidence_eos_eot_inf": True},
    "maskgit": {"alg": "maskgit_plus"},
    "maskgit-warm": {"alg": "maskgit_plus", "temperature": 0.6, "top_p": 0.9},
    "margin": {"alg": "topk_margin", "top_k": 5, "alg_temp": 0.4},
    "entropy": {"alg": "entropy", "temperature": 0.7, "logits_eos_inf": True},
    "origin": {"alg": "origin", "temperature": 0.4, "steps": 6},
}
# What ranks or confines candidates in ways of their own, at settings that compute everything.
CACHES = ("none", "d2", "spa", "dkv-greedy")


@functools.cache
def model_of(family: str, seed: int = 11):
    # Few tokens, so that end tokens have probabilities that count.
    return random_model(seed, vocab_size=23, model_type=family)


def logits_before(model, sequence, step: int, cfg_scale: float) -> Tensor:
    """``[G, V]`` fp32: what the model said of the generation region before ``step``."""
    ids = sequence.ids.clone()
    ids[(sequence.commit_step >= step) | (sequence.commit_step < 0)] = model.mask_token_id
    prompt = sequence.prompt_ids
    canvas = torch.cat([prompt, ids])
    logits = model.logits([canvas])[0].float()
    if cfg_scale:
        canvas = canvas.clone()
        canvas[: len(prompt)] = model.mask_token_id
        unguided = model.logits([canvas])[0].float()
        logits = unguided + (cfg_scale + 1) * (logits - unguided)
    first = len(prompt) - model.shift
    return logits[first : first + len(ids)]


def assert_log_probs(model, sequence, cfg_scale: float = 0.0) -> None:
    committed = sequence.commit_step >= 0
    assert committed.any()
    assert sequence.log_prob.dtype == torch.float32 and sequence.log_prob.shape == (GEN_LENGTH,)
    assert sequence.log_prob.isnan().equal(~committed)
    for step in sequence.commit_step[committed].unique().tolist():
        log_probs = logits_before(model, sequence, step, cfg_scale).log_softmax(-1)
        mine = sequence.commit_step == step
        expected = log_probs.gather(1, sequence.ids[:, None])[:, 0]
        torch.testing.assert_close(sequence.log_prob[mine], expected[mine], rtol=0, atol=2e-4)


@pytest.mark.parametrize("family", ["llada", "Dream"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_log_prob_is_that_of_the_softmax_of_the_logits(sampler, family):
    options, model = SAMPLERS[sampler], model_of(family)
    out = dlmcache_cuda.decode(
        model, PROMPTS, gen_length=GEN_LENGTH, seed=4, stop_at_eos=False, **options
    )
    for sequence in out.sequences:
        assert_log_probs(model, sequence, options.get("cfg_scale", 0.0))
        confidence = sequence.confidence.log()
        differs = not torch.allclose(confidence, sequence.log_prob, atol=1e-4, equal_nan=True)
        filtered = options.keys() & {
            "logits_eos_inf", "confidence_eos_eot_inf", "suppress_token_ids", "top_p", "top_k",
        }  # fmt: skip
        drawn = "alg" in options and "temperature" in options
        if family == "llada":  # Dream's default is an alg
            assert differs == bool(filtered or drawn)


@pytest.mark.parametrize("cache", CACHES)
def test_log_prob_under_caches_with_candidates_of_their_own(cache):
    model, policy = model_of("llada"), available_policies()[cache]
    out = dlmcache_cuda.decode(
        model, PROMPTS, gen_length=GEN_LENGTH, cache=policy.exact_config(), logits_eos_inf=True
    )
    for sequence in out.sequences:
        assert_log_probs(model, sequence)


def test_an_end_token_without_confidence_has_its_probability():
    """Left out of the softmax that ranks, it is committed with confidence 0."""
    model = model_of("llada", seed=4)  # one that predicts end tokens
    out = dlmcache_cuda.decode(
        model, [[n] for n in range(20)], gen_length=GEN_LENGTH, stop_at_eos=False,
        confidence_eos_eot_inf=True, logits_eos_inf=False,
    )  # fmt: skip
    ends = torch.tensor(model.end_token_ids)
    unsure = [sequence for sequence in out.sequences if (sequence.confidence == 0).any()]
    assert unsure
    for sequence in unsure:
        assert torch.isin(sequence.ids[sequence.confidence == 0], ends).all()
        assert sequence.log_prob.isfinite().all()
        assert_log_probs(model, sequence)


@pytest.mark.parametrize("sampler", ["entropy", "both-eos", "threshold"])
def test_log_probs_of_steps_as_on_a_gpu_are_those_of_exact_ones(sampler):
    model, options = model_of("llada"), {"cache": "dual", "seed": 2, **SAMPLERS[sampler]}
    exact = dlmcache_cuda.decode(model, PROMPTS, gen_length=GEN_LENGTH, **options)
    with resident(graphs=True):
        replayed = dlmcache_cuda.decode(model, PROMPTS, gen_length=GEN_LENGTH, **options)
    for mine, other in zip(replayed.sequences, exact.sequences, strict=True):
        assert mine.ids.tolist() == other.ids.tolist()
        torch.testing.assert_close(mine.log_prob, other.log_prob, rtol=0, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("sampler", ["default", "entropy", "confidence-eos"])
def test_what_log_probs_take_is_predicted(sampler):
    model, options = model_of("llada"), decode_defaults() | SAMPLERS[sampler]
    settings = check_settings(model, make_policy("none"), **options | {"gen_length": 16})
    predicted = predict(model, make_policy("none"), settings, 2, lengths=[32, 20])
    canvas = SlotDecoder(model, make_policy("none"), settings, num_slots=2, capacity=32).canvas
    held = {
        tensor.data_ptr(): tensor.nbytes
        for tensor in vars(canvas).values()
        if isinstance(tensor, Tensor)
    }
    assert predicted.canvas == sum(held.values())
    assert (canvas.log_prob is canvas.log_confidence) == (sampler == "default")


def test_output_as_json_has_numbers_per_position():
    model = model_of("llada")
    out = dlmcache_cuda.decode(model, PROMPTS, gen_length=GEN_LENGTH, threshold=0.2)
    data = json.loads(json.dumps(out.to_dict(), allow_nan=False))
    for record, sequence in zip(data["sequences"], out.sequences, strict=True):
        lengths = {len(record[name]) for name in ("ids", "commit_step", "confidence", "log_prob")}
        assert lengths == {GEN_LENGTH}
        for value, expected in zip(record["log_prob"], sequence.log_prob.tolist(), strict=True):
            assert value == expected or (value is None and expected != expected)
