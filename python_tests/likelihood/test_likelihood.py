"""The estimate of likelihoods: against the exact expectation, LLaDA's formula, and bad input."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

import dlmcache_cuda
from dlmcache_cuda.assets.questions import make_questions
from dlmcache_cuda.likelihood import all_mask_sets, draw_mask_sets, is_greedy, log_likelihood
from dlmcache_cuda.testing.tiny_model import random_model

VOCAB = 11
PROMPT, ANSWER = [3, 1, 4], [1, 5, 2, 6]


@pytest.fixture(scope="module", params=["llada", "Dream"])
def model(request):
    return random_model(vocab_size=VOCAB, model_type=request.param, weights=None, seed=2)


def expectation(model, prompt, answer, cfg_scale=0.0):
    """Directly from the definition: every number of masks, every set of that many positions."""
    length, mask = len(answer), model.mask_token_id
    total = 0.0
    for count in range(1, length + 1):
        sets = list(itertools.combinations(range(length), count))
        for chosen in sets:
            noisy = [mask if place in chosen else token for place, token in enumerate(answer)]
            (logits,) = model.logits([prompt + noisy]).double()
            if cfg_scale:
                (un,) = model.logits([[mask] * len(prompt) + noisy]).double()
                logits = un + (cfg_scale + 1) * (logits - un)
            log_p = logits.log_softmax(-1)
            loss = sum(log_p[len(prompt) + p - model.shift, answer[p]].item() for p in chosen)
            total += loss * length / count / len(sets) / length
    return total


@pytest.mark.parametrize("cfg_scale", [0.0, 1.5])
def test_short_answers_are_exact(model, cfg_scale):
    (value,) = log_likelihood(model, [(PROMPT, ANSWER)], mc_num=15, cfg_scale=cfg_scale)
    assert value == pytest.approx(expectation(model, PROMPT, ANSWER, cfg_scale), rel=1e-5)


def test_draws_come_near_the_expectation(model):
    exact = expectation(model, PROMPT, ANSWER)
    few, many = (
        [
            log_likelihood(
                model, [(PROMPT, ANSWER)], mc_num=number, seed=seed, enumerate_short=False
            )[0]
            for seed in range(30)
        ]
        for number in (4, 64)
    )
    errors = [math.sqrt(sum((v - exact) ** 2 for v in values) / 30) for values in (few, many)]
    assert errors[1] < errors[0] / 2 and errors[1] < 0.05 * abs(exact)
    # Unbiased: the mean lies within three standard errors.
    assert abs(sum(few) / 30 - exact) < 3 * errors[0] / math.sqrt(30)


def test_one_token_is_its_probability(model):
    (value,) = log_likelihood(model, [(PROMPT, [7])], mc_num=1, enumerate_short=False)
    (logits,) = model.logits([[*PROMPT, model.mask_token_id]])
    expected = logits.double().log_softmax(-1)[len(PROMPT) - model.shift, 7].item()
    assert value == pytest.approx(expected, rel=1e-5)


def test_a_pair_gets_the_same_whatever_else_is_asked(model):
    pairs = [(PROMPT, [1, 2, 3, 4, 5]), (PROMPT[:2], [2] * 9), (PROMPT, [1]), ([5], [1, 2])]
    settings = {"mc_num": 6, "seed": 4}
    together = log_likelihood(model, pairs, **settings)
    singly = [log_likelihood(model, [pair], **settings)[0] for pair in reversed(pairs)]
    assert together == pytest.approx(singly[::-1], rel=1e-5)
    assert log_likelihood(model, pairs, mc_num=6, seed=5) != together


def test_numbers_of_masks_are_spread_evenly():
    sets = draw_mask_sets(6, 12, 6, torch.Generator().manual_seed(0))
    times = (sets.weight * 12 * sets.masked.sum(1) / 6).round().long()
    counts = sets.masked.sum(1).repeat_interleave(times)
    assert counts.sort().values.tolist() == [number for number in range(1, 7) for _ in range(2)]


@pytest.mark.parametrize("length", [1, 2, 5])
def test_weights_are_those_of_the_expectation(length):
    # Every token must count once in all: then log p = -1 everywhere gives -length.
    sets = all_mask_sets(length)
    assert len(sets.masked) == 2**length - 1
    assert (sets.weight[:, None] * sets.masked).sum(0).tolist() == pytest.approx([1] * length)
    drawn = draw_mask_sets(length, 8, 4, torch.Generator().manual_seed(1))
    assert float((drawn.weight * drawn.masked.sum(1)).sum()) == pytest.approx(length)


def test_greedy_answers_are_recognised():
    model = dlmcache_cuda.load(device="cpu")
    (question,) = make_questions(1, seed=5)
    chat = [{"role": "user", "content": question.prompt}]
    out = dlmcache_cuda.decode(model, chat, gen_length=20, stop_at_eos=False).sequences[0]
    prompt, said = out.prompt_ids, out.ids.tolist()
    other = [*said[:-1], said[-1] - 1]
    assert is_greedy(model, [(prompt, said), (prompt, other), (prompt, [])]) == [True, False, True]


def test_the_bundled_model_prefers_right_answers():
    model = dlmcache_cuda.load(device="cpu")
    (question,) = make_questions(1, seed=5)
    chat = [{"role": "user", "content": question.prompt}]
    prompt = model.tokenizer.apply_chat_template(
        chat, add_generation_prompt=True, return_dict=False
    )
    right = model.tokenizer(question.answer, add_special_tokens=False)["input_ids"]
    wrong = [*right[:-1], right[1]]
    values = log_likelihood(model, [(prompt, right), (prompt, wrong)], mc_num=16, seed=1)
    assert values[0] > values[1] + 1


def test_progress_counts_every_pair(model):
    seen = []
    pairs = [(PROMPT, [1, 2, 3]), (PROMPT, [4, 5, 6]), (PROMPT, [1])]
    log_likelihood(model, pairs, mc_num=8, mc_batch_size=2, progress=seen.append)
    assert sum(seen) == 3 and all(number >= 0 for number in seen)


@pytest.mark.parametrize(
    "pairs, settings, message",
    [
        ([(PROMPT, ANSWER)], {"mc_num": 0}, "mc_num must be an integer >= 1"),
        ([(PROMPT, ANSWER)], {"mc_num": 8, "mc_batch_size": 3}, r"must divide mc_num \(8\), got 3"),
        ([(PROMPT, ANSWER)], {"cfg_scale": -1}, r"cfg_scale must be .* in \[0, 1e6\], got -1"),
        ([(PROMPT, ANSWER)], {"cfg_scale": math.nan}, r"cfg_scale .* in \[0, 1e6\], got nan"),
        ([(PROMPT, ANSWER)], {"cfg_scale": math.inf}, r"cfg_scale .* in \[0, 1e6\], got inf"),
        ([(PROMPT, ANSWER)], {"cfg_scale": 1e38}, r"cfg_scale .* in \[0, 1e6\], got 1e\+38"),
        ([(PROMPT, ANSWER)], {"seed": -1}, "seed must be an integer >= 0"),
        ([(PROMPT, [VOCAB])], {}, r"pairs\[0\]: token ids of this model are 0 to 10"),
        ([(PROMPT, [1]), (PROMPT, [VOCAB - 1])], {}, r"pairs\[1\] holds the mask token"),
        ([(PROMPT, [1] * 600)], {}, r"3 \+ 600 tokens; max_sequence_length of this model is"),
        ([PROMPT], {}, r"pairs\[0\] must be token ids of prompt and answer"),
    ],
)
def test_wrong_arguments_are_named(pairs, settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        log_likelihood(random_model(vocab_size=VOCAB), pairs, **settings)


def test_dream_needs_a_prompt():
    with pytest.raises(ValueError, match="has no prompt"):
        log_likelihood(random_model(vocab_size=VOCAB, model_type="Dream"), [([], ANSWER)])
    (value,) = log_likelihood(random_model(vocab_size=VOCAB), [([], ANSWER)], mc_num=15)
    assert value == pytest.approx(expectation(random_model(vocab_size=VOCAB), [], ANSWER), rel=1e-5)
