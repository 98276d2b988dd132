"""verify(): what is compared, and the divergence against distributions computed by hand."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch

import dlmcache_cuda
from dlmcache_cuda import available_policies, decode, verify
from dlmcache_cuda.policies.dllm import DllmConfig
from dlmcache_cuda.policies.fast_dllm import DualConfig
from dlmcache_cuda.tuning import divergence
from dlmcache_cuda.tuning.comparison import (
    compare_tokens,
    first_differing_step,
    first_reordered_step,
)

PROMPTS = [[3, 9, 4], [7, 5, 8, 1, 12], [2]]
DECODING = {"gen_length": 12, "block_length": 6}
QUICK = DECODING | {"repeats": 0}


@pytest.mark.parametrize("name", list(available_policies()))
def test_exact_settings_change_nothing(either, name):
    policy = available_policies()[name]
    if either.shift not in policy.shifts:
        pytest.skip("not defined for this model")
    settings = dict(QUICK)
    if either.shift and policy.remasking is None:
        settings["alg"] = "maskgit_plus"
    result = verify(either, PROMPTS, cache=policy.exact_config(), kl_steps=None, **settings)
    assert result.agreement == result.answers_equal == 1
    assert result.first_differing_step is None
    assert [s.first_reordered_step for s in result.sequences] == [None] * 3
    assert result.divergence.maximum < 1e-6 and result.divergence.same_choice == 1
    assert result.divergence.positions > 0
    assert result.rows_relative <= 1 and result.forwards_relative == 1


@pytest.mark.parametrize(
    "cache", [DualConfig(), "elastic", "spa", "d2"], ids=lambda cache: str(cache)[:7]
)
@pytest.mark.parametrize("cfg_scale", [0.0, 0.8])
def test_divergence_is_that_of_the_distributions(either, cache, cfg_scale, monkeypatch):
    """The cached side has the confidence at commit; vanilla's is a forward of the canvas."""
    seen = []
    keep = divergence.DivergenceDecoder._log_probabilities
    monkeypatch.setattr(
        divergence.DivergenceDecoder,
        "_log_probabilities",
        lambda *args: seen.append(keep(*args)) or seen[-1],
    )
    settings = {"gen_length": 8, "cfg_scale": cfg_scale, "stop_at_eos": False, "seed": 3}
    if either.shift:
        settings["alg"] = "maskgit_plus"
    prompt = PROMPTS[1]
    result = verify(either, [prompt], cache=cache, kl_steps=None, repeats=0, **settings)
    (sequence,) = decode(either, [prompt], cache=cache, **settings).sequences
    expected = []
    for step, (cached, vanilla) in enumerate(zip(seen[::2], seen[1::2], strict=True)):
        # Dream's schedule commits nothing at some steps; these are not measured.
        steps = sorted(set(sequence.commit_step.tolist()) - {-1})
        positions = (sequence.commit_step == steps[step]).nonzero().flatten()
        ids = sequence.ids[positions]
        confidence = cached.exp().gather(1, ids[:, None]).flatten().float()
        torch.testing.assert_close(confidence, sequence.confidence[positions], atol=1e-5, rtol=1e-4)
        canvas = torch.cat((torch.tensor(prompt), sequence.ids))
        later = (sequence.commit_step >= steps[step]).nonzero().flatten() + len(prompt)
        canvas[later] = either.mask_token_id
        logits = either.logits(canvas[None])[0]
        if cfg_scale:
            masked = canvas.clone()
            masked[: len(prompt)] = either.mask_token_id
            other = either.logits(masked[None])[0]
            logits = other + (cfg_scale + 1) * (logits - other)
        by_hand = logits[positions + len(prompt) - either.shift].double().log_softmax(1)
        torch.testing.assert_close(vanilla, by_hand, atol=1e-4, rtol=1e-4)
        expected += (by_hand.exp() * (by_hand - cached)).sum(1).clamp(min=0).tolist()
    assert result.divergence.positions == len(expected) > 0
    assert result.divergence.mean == pytest.approx(sum(expected) / len(expected), abs=1e-4)


def test_steps_looked_at_are_bounded(llada):
    few = verify(llada, PROMPTS, cache="dual", kl_steps=5, **QUICK)
    assert few.divergence.steps == 5
    assert verify(llada, PROMPTS, cache="dual", kl_steps=0, **QUICK).divergence is None


def test_both_runs_are_those_of_decode(llada):
    settings = {"gen_length": 12, "threshold": 0.2, "temperature": 0.5, "seed": 4}
    result = verify(llada, PROMPTS, cache="dual", repeats=0, batch_size=2, **settings)
    for cache, rows, forwards in (("none", "rows_vanilla", "forwards_vanilla"),
                                  ("dual", "rows", "forwards")):  # fmt: skip
        out = decode(llada, PROMPTS, cache=cache, **settings)
        for sequence, comparison in zip(out.sequences, result.sequences, strict=True):
            assert sequence.rows_computed == getattr(comparison, rows)
            assert sequence.forwards == getattr(comparison, forwards)


def test_vanilla_follows_the_order_of_the_cache(llada):
    result = verify(llada, PROMPTS, cache="dkv-greedy", **QUICK)
    assert result.settings["remasking"] == "random_order"


def test_first_steps_are_found():
    model = dlmcache_cuda.testing.tiny_model.random_model(2)
    vanilla = decode(model, [[3, 4]], gen_length=6, stop_at_eos=False).sequences[0]
    order = vanilla.commit_step.tolist()
    other = vanilla.ids.clone()
    place = order.index(3)
    other[place] = (other[place] + 1) % 60
    changed = dataclasses.replace(vanilla, ids=other)
    assert compare_tokens(other, vanilla.ids, ()).first_position == place
    assert first_differing_step(vanilla, changed, 6) == 3
    assert first_reordered_step(vanilla, changed, 6) == 3
    steps = vanilla.commit_step.clone()
    one, two = order.index(2), order.index(4)
    steps[one], steps[two] = 4, 2
    swapped = dataclasses.replace(vanilla, commit_step=steps)
    assert first_differing_step(vanilla, swapped, 6) is None
    assert first_reordered_step(vanilla, swapped, 6) == 2


def test_tokens_behind_both_ends_do_not_count():
    one, other = torch.tensor([5, 9, 1, 2, 3]), torch.tensor([5, 4, 9, 7, 8])
    difference = compare_tokens(one, other, (9,))
    assert (difference.tokens, difference.differing, difference.first_position) == (2, 1, 1)
    same = compare_tokens(torch.tensor([9, 1]), torch.tensor([9, 2]), (9,))
    assert (same.tokens, same.differing, same.first_position) == (0, 0, None)


def test_answers_and_scores_are_the_users():
    model = dlmcache_cuda.load()
    prompt = [{"role": "user", "content": "(a) boat finds zinc . start boat steps 1 ?"}]
    told = []
    result = verify(
        model,
        [prompt],
        cache=DllmConfig(gen_interval_steps=16, transfer_ratio=0.0),
        gen_length=32,
        answers=lambda text: "constant",
        score=lambda index, text: 0.5,
        repeats=1,
        progress=lambda *args: told.append(args),
    )
    assert result.answers_equal == 1 and result.agreement < 1
    assert result.score == result.score_vanilla == 0.5
    assert result.speed_up > 0 and len(result.seconds) == 1
    assert ("vanilla", 1, 1) in told and ("cached", 1, 1) in told
    data = json.loads(json.dumps(result.to_dict()))
    assert data["cache"] == "dllm" and data["sequences"][0]["prompt"] == 0
    text = str(result)
    assert "tokens equal" in text and "KL(vanilla || cached)" in text and "differs" not in text


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"kl_steps": -1}, ValueError, "kl_steps must be None or an integer >= 0, got -1"),
        ({"kl_steps": 1.5}, TypeError, "kl_steps must be"),
        ({"repeats": True}, TypeError, "repeats must be an integer >= 0, got True"),
        ({"answers": 3}, TypeError, "answers must be callable or None, got int"),
        ({"score": "x"}, TypeError, "score must be callable or None, got str"),
        ({"score": lambda index, text: 2}, ValueError, "this checkpoint has no tokenizer"),
        ({"progress": 1}, TypeError, "progress must be callable"),
        ({"cache": "dua"}, ValueError, "Did you mean 'dual'"),
        ({"tresh": 1}, TypeError, "verify got an unknown setting 'tresh'"),
        ({"trace": True}, TypeError, "verify got an unknown setting 'trace'"),
        ({"block_length": 5}, ValueError, "block_length must divide"),
    ],
)
def test_wrong_arguments_are_refused(llada, arguments, error, message):
    with pytest.raises(error, match=message):
        verify(llada, PROMPTS, **{"cache": "dual"} | QUICK | arguments)
