"""The model class of lm-eval: texts, likelihoods, templates, and what it refuses."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install lm-eval==0.4.13")

import lm_eval.api.registry

import dlmcache_cuda
from dlmcache_cuda.assets.questions import check_answer, make_questions
from dlmcache_cuda.evaluation import DlmcacheLM
from dlmcache_cuda.likelihood import log_likelihood
from dlmcache_cuda.testing.tiny_model import random_checkpoint

QUESTIONS = make_questions(3, seed=5)
QUIET = {"disable_tqdm": True}


@pytest.fixture(scope="module")
def bundled():
    return dlmcache_cuda.load(device="cpu")


@pytest.fixture(scope="module")
def lm(bundled):
    return DlmcacheLM(bundled, cache="dual", threshold=0.9, block_length=32, mc_num=8, batch_size=2)


def asked(*requests):
    return [SimpleNamespace(args=request) for request in requests]


def prompt_of(lm, question):
    return lm.apply_chat_template([{"role": "user", "content": question.prompt}])


def test_it_is_registered():
    assert lm_eval.api.registry.get_model("dlmcache") is DlmcacheLM


def test_model_arguments_come_as_text():
    text = "cache=elastic,gamma=0.8,threshold=0.9,gen_length=32,mc_num=4,device=cpu,dtype=float32"
    lm = DlmcacheLM.create_from_arg_string(text, {"batch_size": 2, "max_batch_size": None})
    assert (lm.batch_size, lm.settings.gen_length, lm.settings.cache.gamma) == (2, 32, 0.8)


def test_a_chat_is_tokenised_as_by_decode(lm):
    chat = [{"role": "user", "content": QUESTIONS[0].prompt}]
    expected = lm.tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    assert lm.tok_encode(prompt_of(lm, QUESTIONS[0])) == expected
    assert lm.chat_template(True) == lm.tokenizer.chat_template
    assert lm.tokenizer_name == lm.model.name


def test_texts_are_those_of_decode_in_the_order_of_the_requests(lm, bundled):
    prompts = [prompt_of(lm, question) for question in QUESTIONS]
    kwargs = [{"max_gen_toks": 96}, {"max_gen_toks": 96, "cache": "none"}, {"max_gen_toks": 96}]
    texts = lm.generate_until(asked(*zip(prompts, kwargs, strict=True)), **QUIET)
    assert all(map(check_answer, QUESTIONS, texts))
    chat = [{"role": "user", "content": QUESTIONS[1].prompt}]
    out = dlmcache_cuda.decode(bundled, chat, gen_length=96, block_length=32, threshold=0.9, seed=0)
    assert texts[1] == out.text[0]


def test_texts_end_at_stop_strings_and_at_their_length(lm):
    prompt = prompt_of(lm, QUESTIONS[0])
    whole, stopped, special, short = lm.generate_until(
        asked(
            (prompt, {"max_gen_toks": 96}),
            (prompt, {"max_gen_toks": 96, "until": ["so at", "never"]}),
            (prompt, {"max_gen_toks": 96, "until": "####"}),
            (prompt, {"max_gen_toks": 34}),
        ),
        **QUIET,
    )
    assert stopped == whole.partition("so at")[0] and "so at" in whole
    assert special == whole.partition("####")[0]
    assert short == " ".join(whole.split()[:34])[: len(short)] and len(short.split()) <= 34


def test_throughput_counts_every_call(bundled):
    lm = DlmcacheLM(bundled, cache="dual", threshold=0.9)
    prompts = [(prompt_of(lm, question), {"max_gen_toks": 96}) for question in QUESTIONS]
    lm.generate_until(asked(*prompts), **QUIET)
    speed = lm.throughput
    assert speed.sequences == 3 and speed.visible_tokens > 3 * 10
    assert speed.tokens_per_forward > 1 and speed.tokens_per_second > 0
    assert 0 < speed.rows_relative <= 1


def test_a_request_gets_the_same_numbers_in_any_batch(bundled):
    lm = DlmcacheLM(bundled, temperature=4.0, gen_length=16, seed=3)
    requests = [(prompt_of(lm, question), {}) for question in QUESTIONS]
    together = lm.generate_until(asked(*requests), **QUIET)
    singly = [lm.generate_until(asked(request), **QUIET)[0] for request in reversed(requests)]
    assert together == singly[::-1]
    repeats = lm.generate_until(asked(requests[0], requests[0], requests[0]), **QUIET)
    assert repeats[0] == together[0] and len(set(repeats)) > 1


def test_likelihoods_are_the_estimate_and_right_answers_the_likelier(lm, bundled):
    question = QUESTIONS[0]
    prompt, right = prompt_of(lm, question), " " + question.answer
    wrong = right.rpartition(" ")[0] + " urn"
    values = lm.loglikelihood(asked((prompt, right), (prompt, wrong)), **QUIET)
    assert values[0][0] > values[1][0] and not values[1][1]
    ids = (lm.tok_encode(prompt), lm.tok_encode(right, add_special_tokens=False))
    assert values[0][0] == pytest.approx(log_likelihood(bundled, [ids], mc_num=8)[0], rel=1e-4)


def test_a_greedy_answer_counts_as_greedy(lm, bundled):
    prompt = prompt_of(lm, QUESTIONS[0])
    ids = lm.tok_encode(prompt)
    said = dlmcache_cuda.decode(bundled, [ids], gen_length=3, stop_at_eos=False).ids[0]
    text = " " + bundled.tokenizer.decode(said)
    ((_, greedy),) = lm.loglikelihood(asked((prompt, text)), **QUIET)
    assert greedy
    unasked = DlmcacheLM(bundled, mc_num=2, is_check_greedy=False)
    assert unasked.loglikelihood(asked((prompt, text)), **QUIET)[0][1] is False


def test_whole_texts_are_estimated_in_windows(bundled):
    lm = DlmcacheLM(bundled, mc_num=31, max_length=6)
    (value,) = lm.loglikelihood_rolling(asked(("boat finds zinc . start boat steps 1",)), **QUIET)
    ids = lm.tok_encode("boat finds zinc . start boat steps 1")
    pairs = [([lm.prefix_token_id], ids[:5]), (ids[2:5], ids[5:])]
    assert value == pytest.approx(sum(log_likelihood(bundled, pairs, mc_num=31)), rel=1e-5)


def test_long_prompts_are_cut_at_their_beginning(bundled, capsys):
    lm = DlmcacheLM(bundled, max_length=40, cache="none", mc_num=1)
    long = "boat " * 50
    lm.generate_until(asked((long, {"max_gen_toks": 8, "num_beams": 1})), **QUIET)
    lm.loglikelihood(asked((long, "finds zinc")), **QUIET)
    assert lm.throughput.truncated_prompts == 2
    said = capsys.readouterr().err
    assert "is cut at its beginning to 32" in said and "without meaning here: num_beams" in said


def test_texts_without_context(lm):
    assert lm.loglikelihood(asked(("", "boat finds")), **QUIET)[0][0] < 0
    assert isinstance(lm.generate_until(asked(("", {"max_gen_toks": 4})), **QUIET)[0], str)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"batch_size": 0}, "batch_size must be an integer >= 1 or auto"),
        ({"batch_size": "many"}, "batch_size must be an integer >= 1 or auto, got 'many'"),
        ({"mc_num": 0}, "mc_num must be an integer >= 1"),
        ({"mc_num": 9, "mc_batch_size": 2}, "mc_batch_size must divide mc_num"),
        ({"is_check_greedy": 1}, "is_check_greedy must be True or False"),
        ({"threshold": 2}, "threshold must be a number in"),
        ({"cache": "magic"}, "cache must be one of"),
        ({"trust_me": True}, "'trust_me' is no argument"),
        ({"gen_length": 10**6}, "gen_length must leave room for a prompt"),
        ({"gen_length": 64, "block_length": 48}, "block_length must divide gen_length"),
        ({"max_length": 10**6}, "max_length must be an integer from 2 to"),
        ({"top_p": 0.9}, "top_p belongs to alg"),
    ],
)
def test_wrong_arguments_are_refused_before_any_request(bundled, arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        DlmcacheLM(bundled, **arguments)


def test_dream_is_a_model_too(tmp_path):
    folder = random_checkpoint(tmp_path / "dream", model_type="Dream", tokenizer=True, shards=1)
    lm = DlmcacheLM(str(folder), device="cpu", mc_num=4)
    (text,) = lm.generate_until(asked(("w5 w7", {"max_gen_toks": 4})), **QUIET)
    assert isinstance(text, str)
    ((value, _),) = lm.loglikelihood(asked(("", "w5 w7")), **QUIET)
    assert lm.model.shift == 1 and value < 0
