"""Every bad argument of decode() is refused with its name, what was given and what is allowed."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from oracles.checkpoint import MASK, VOCAB, write_checkpoint
from oracles.compare import load_pair, random_prompts

import dlmcache_cuda

PROMPT = [1, 2, 3]
NO_TOKENIZER = ["no tokenizer", "token ids"]


def refused(error: type[Exception], words: list[str], prompts: Any = None, **options: Any) -> None:
    """``decode`` raises ``error`` and its message contains all ``words``."""
    prompts = [torch.tensor(PROMPT)] if prompts is None else prompts
    options = {"gen_length": 8} | options
    with pytest.raises(error) as caught:
        dlmcache_cuda.decode(load_pair(1).model, prompts, **options)
    for word in words:
        assert re.search(word, str(caught.value)), f"{word!r} is not in {str(caught.value)!r}"


@pytest.mark.parametrize(
    "options,words",
    [
        ({"gen_length": 0}, ["gen_length", "0"]),
        ({"gen_length": -5}, ["gen_length", "-5"]),
        ({"block_length": 0}, ["block_length", "0"]),
        ({"block_length": 3}, ["block_length", "3", "gen_length", "8"]),
        ({"block_length": 16}, ["block_length", "16", "gen_length", "8"]),
        ({"steps": 0}, ["steps", "0"]),
        ({"steps": 5, "block_length": 2}, ["steps", "5", "4"]),
        ({"temperature": -0.5}, ["temperature", "-0.5"]),
        ({"temperature": math.nan}, ["temperature", "nan"]),
        ({"temperature": math.inf}, ["temperature", "inf"]),
        ({"temperature": 1e-40}, ["temperature", "0 or from 1e-30 to 1e30", "1e-40"]),
        ({"temperature": 1e308}, ["temperature", "0 or from 1e-30 to 1e30", r"1e\+308"]),
        ({"temperature": 10**400}, ["temperature", "an integer of 1329 bits"]),
        ({"alg": "entropy", "alg_temp": 1e-300}, ["alg_temp", "0 or from 1e-30", "1e-300"]),
        ({"alg": "entropy", "top_k": 2**63}, ["top_k", str(2**31 - 1), str(2**63)]),
        ({"alg": "entropy", "min_commit": 2**63}, ["min_commit", str(2**63)]),
        ({"cfg_scale": 3e38}, ["cfg_scale", r"\[0, 1e6\]", r"3e\+38"]),
        ({"steps": 10**9, "remasking": "random_order"}, ["steps", str(2**20), str(10**9)]),
        ({"cfg_scale": -1.0}, ["cfg_scale", "-1"]),
        ({"cfg_scale": math.nan}, ["cfg_scale", "nan"]),
        ({"remasking": "entropy"}, ["remasking", "entropy", "low_confidence", "random"]),
        ({"remasking": 3}, ["remasking", "3", "low_confidence", "random"]),
        ({"threshold": 0.0}, ["threshold", "0"]),
        ({"threshold": -0.1}, ["threshold", "-0.1"]),
        ({"threshold": 1.01}, ["threshold", "1.01"]),
        ({"threshold": math.nan}, ["threshold", "nan"]),
        ({"factor": 0.0}, ["factor", "0"]),
        ({"factor": -1.0}, ["factor", "-1"]),
        ({"factor": math.nan}, ["factor", "nan"]),
        ({"threshold": 0.9, "factor": 1.0}, ["threshold", "factor"]),
        ({"threshold": 0.9, "remasking": "random"}, ["threshold", "remasking", "random"]),
        ({"factor": 1.0, "remasking": "random"}, ["factor", "remasking", "random"]),
        ({"cache": "dua"}, ["cache", "dua", "none", "prefix", "dual"]),
        ({"batch_size": 0}, ["batch_size", "0"]),
        ({"batch_size": -2}, ["batch_size", "-2"]),
        ({"seed": [1, 2]}, ["seed", "2", "1"]),
        ({"seed": []}, ["seed", "0", "1"]),
        ({"seed": -1}, ["seed", "-1"]),
        ({"seed": ["a"]}, ["seed", "integers", "'a'"]),
        ({"seed": [2**63]}, ["seed", str(2**63)]),
        ({"gen_length": 200}, ["203", "128"]),
        ({"alg": "margin"}, ["alg", "margin", "origin", "maskgit_plus", "topk_margin", "entropy"]),
        ({"alg": 3}, ["alg", "3", "entropy"]),
        ({"alg": "entropy", "remasking": "random"}, ["alg", "entropy", "remasking", "random"]),
        ({"alg": "origin", "threshold": 0.9}, ["alg", "origin", "threshold", "0.9"]),
        ({"alg": "entropy", "factor": 1.0}, ["alg", "entropy", "factor", "1.0"]),
        ({"alg": "entropy", "confidence_eos_eot_inf": True}, ["alg", "confidence_eos_eot_inf"]),
        ({"alg_temp": 0.1}, ["alg_temp", "0.1", "alg", "entropy"]),
        ({"top_p": 0.9}, ["top_p", "0.9", "alg"]),
        ({"top_k": 4}, ["top_k", "4", "alg"]),
        ({"min_commit": 1}, ["min_commit", "1", "alg"]),
        ({"top_p": 0.9, "threshold": 0.9}, ["top_p", "0.9", "alg"]),
        ({"alg": "entropy", "top_p": 0.0}, ["top_p", "0"]),
        ({"alg": "entropy", "top_p": 1.5}, ["top_p", "1.5"]),
        ({"alg": "entropy", "top_k": 0}, ["top_k", "0"]),
        ({"alg": "entropy", "alg_temp": -1.0}, ["alg_temp", "-1"]),
        ({"alg": "entropy", "alg_temp": math.nan}, ["alg_temp", "nan"]),
        ({"alg": "entropy", "min_commit": -1}, ["min_commit", "-1"]),
        ({"alg": "origin", "alg_temp": 0.1}, ["origin", "alg_temp", "0.1"]),
        ({"alg": "origin", "min_commit": 1}, ["origin", "min_commit", "1"]),
        ({"alg": "entropy", "steps": 5, "block_length": 2}, ["steps", "5", "4"]),
    ],
    ids=str,
)
def test_bad_value(options, words):
    refused(ValueError, words, **options)


@pytest.mark.parametrize(
    "options,words",
    [
        ({"gen_length": 8.0}, ["gen_length", "integer", "8.0"]),
        ({"gen_length": "8"}, ["gen_length", "integer", "'8'"]),
        ({"gen_length": True}, ["gen_length", "integer", "True"]),
        ({"gen_length": None}, ["gen_length", "integer", "None"]),
        ({"block_length": 2.5}, ["block_length", "integer", "2.5"]),
        ({"steps": "4"}, ["steps", "integer", "'4'"]),
        ({"temperature": "warm"}, ["temperature", "number", "'warm'"]),
        ({"temperature": None}, ["temperature", "number", "None"]),
        ({"cfg_scale": "1"}, ["cfg_scale", "number", "'1'"]),
        ({"threshold": "0.9"}, ["threshold", "number", "'0.9'"]),
        ({"threshold": True}, ["threshold", "number", "True"]),
        ({"factor": [1.0]}, ["factor", "number", r"\[1.0\]"]),
        ({"cache": 7}, ["cache", "int"]),
        ({"cache": None}, ["cache", "None"]),
        ({"stop_at_eos": "yes"}, ["stop_at_eos", "True or False", "'yes'"]),
        ({"logits_eos_inf": 1}, ["logits_eos_inf", "True or False", "1"]),
        ({"confidence_eos_eot_inf": 0.0}, ["confidence_eos_eot_inf", "True or False", "0.0"]),
        ({"seed": 1.5}, ["seed", "integer", "1.5"]),
        ({"callback": 3}, ["callback", "callable", "int"]),
        ({"batch_size": 1.0}, ["batch_size", "integer", "1.0"]),
        ({"alg": "entropy", "top_p": "0.9"}, ["top_p", "number", "'0.9'"]),
        ({"alg": "entropy", "top_k": 2.0}, ["top_k", "integer", "2.0"]),
        ({"alg": "entropy", "alg_temp": True}, ["alg_temp", "number", "True"]),
        ({"alg": "entropy", "min_commit": "1"}, ["min_commit", "integer", "'1'"]),
    ],
    ids=str,
)
def test_bad_type(options, words):
    refused(TypeError, words, **options)


@pytest.mark.parametrize(
    "prompts,error,words",
    [
        ([], ValueError, ["prompts", "empty"]),
        ([torch.tensor([], dtype=torch.int64)], ValueError, [r"prompts\[0\]", "no tokens"]),
        ([torch.tensor(PROMPT), torch.zeros(0).long()], ValueError, [r"prompts\[1\]", "no tokens"]),
        (torch.zeros(0, 4, dtype=torch.int64), ValueError, ["prompts", "empty", r"\[0, 4\]"]),
        (torch.zeros(2, 0, dtype=torch.int64), ValueError, [r"prompts\[0\]", "no tokens"]),
        (torch.zeros(0, dtype=torch.int64), ValueError, ["prompts", "empty"]),
        ([torch.tensor([1, VOCAB])], ValueError, ["prompt", str(VOCAB), str(VOCAB - 1)]),
        ([torch.tensor([-1, 2])], ValueError, ["prompt", "-1", "0"]),
        ([torch.tensor([1.0, 2.0])], TypeError, ["prompt", "float", "int"]),
        ([torch.tensor([True])], TypeError, ["prompt", "bool", "int"]),
        ([10**30], ValueError, ["prompts", "100 bits"]),
        ([torch.ones(3, dtype=torch.int64, device="meta")], TypeError, ["prompts", "meta"]),
        ([torch.ones(3).long().to_sparse()], TypeError, ["prompts", "in memory", "sparse"]),
        (torch.ones(1, 2, 3, dtype=torch.int64), ValueError, ["prompt", "3"]),
        ([torch.ones(2, 2, dtype=torch.int64)], ValueError, ["prompt", "2", "1"]),
        ([torch.tensor([1, MASK])], ValueError, ["prompt", "mask", str(MASK)]),
        (7, TypeError, ["prompts", "int"]),
        ([torch.tensor([1]), 7.5], TypeError, ["prompt", "float"]),
        ("two plus two", FileNotFoundError, NO_TOKENIZER),
        (["two plus two", "one"], FileNotFoundError, NO_TOKENIZER),
        ([{"role": "user", "content": "two plus two"}], FileNotFoundError, NO_TOKENIZER),
    ],
    ids=str,
)
def test_bad_prompts(prompts, error, words):
    refused(error, words, prompts=prompts)


def test_which_prompt_is_too_long():
    prompts = random_prompts(1, [4, 125, 3])
    words = [r"prompts\[1\]", "125", "gen_length=8", "133", "max_sequence_length", "128"]
    refused(ValueError, words, prompts=prompts)


@pytest.mark.parametrize("temperature", [1e-30, 1e30])
@pytest.mark.parametrize("alg", [None, "origin", "entropy"])
def test_extreme_temperatures_decode(alg, temperature):
    model = load_pair(1).model
    options = {"alg": alg, "temperature": temperature, "gen_length": 8, "seed": 1}
    if alg == "entropy":
        options["alg_temp"] = temperature
    out = dlmcache_cuda.decode(model, [torch.tensor(PROMPT)], **options)
    assert len(out.sequences[0].ids) > 0


def test_unknown_argument():
    refused(TypeError, ["gen_len"], gen_len=3)


@pytest.mark.parametrize("cache", ["none", "prefix", "dual"])
def test_logits_that_are_not_finite_name_sequence_and_step(tmp_path, cache):
    """A weight that went bad after loading must not become text."""
    model = dlmcache_cuda.load(write_checkpoint(tmp_path, 1), device="cpu", dtype=torch.float32)
    prompts = [torch.tensor([4, 5]), torch.tensor([6, 2, 7])]
    healthy = dlmcache_cuda.decode(model, prompts, gen_length=8, cache=cache).ids[0].tolist()
    # only canvases that hold this token are affected: the second one, from its first step on
    poisoned = next(token for token in (6, 2, 7) if token not in healthy)
    model.embedding[poisoned] = math.nan
    with pytest.raises(FloatingPointError, match=r"(?s)sequence 1.*step 0"):
        dlmcache_cuda.decode(model, prompts, gen_length=8, cache=cache, batch_size=1)


def test_errors_leave_the_model_usable():
    model = load_pair(1).model
    prompts = random_prompts(1, [5])
    before = dlmcache_cuda.decode(model, prompts, gen_length=8)
    with pytest.raises(RuntimeError, match="stop here"):
        dlmcache_cuda.decode(model, prompts, gen_length=8, callback=raise_an_error)
    after = dlmcache_cuda.decode(model, prompts, gen_length=8)
    assert before.sequences[0].ids.tolist() == after.sequences[0].ids.tolist()


def raise_an_error(event: Any) -> None:
    raise RuntimeError("stop here")
