"""decode(prompt_embeds=...): rows without tokens, cached like any prompt by every policy."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import pytest
import torch
from oracles.checkpoint import VOCAB
from oracles.compare import (
    Pair,
    decided_steps,
    decode_arguments,
    difference,
    load_pair,
    oracle,
    random_prompts,
)
from oracles.every_policy import (
    CASES,
    POLICIES,
    SMALL,
    assert_same,
    config_of,
    model_of,
    options_of,
)
from oracles.sequence import Settings

import dlmcache_cuda
from dlmcache_cuda.testing.tiny_model import random_model

LENGTHS = [3, 11, 1, 7]
SEEDS = [11, 5, 2**40, 0]
MODELS = {"llada": {"n_layers": 3}, "dream": {"family": "dream", "n_layers": 3, "n_kv_heads": 2}}


@pytest.mark.parametrize(("family", "name"), CASES)
def test_the_embeddings_of_a_prompt_decode_like_the_prompt(family, name):
    model, prompts = model_of(family), random_prompts(2, LENGTHS)
    options = options_of(name, gen_length=12, cache=config_of(name), seed=SEEDS, trace=True)
    options |= {"batch_size": 2, "block_length": 6, "cfg_scale": 0.7, "temperature": 0.5}
    rows = [model.embedding[prompt] for prompt in prompts]
    by_ids = dlmcache_cuda.decode(model, prompts, **options)
    by_rows = dlmcache_cuda.decode(model, prompt_embeds=rows, **options)
    for i, (a, b) in enumerate(zip(by_ids.sequences, by_rows.sequences, strict=True)):
        assert_same(a, b, f"sequence {i}")
        assert (b.prompt_ids == -1).all() and len(b.prompt_ids) == len(a.prompt_ids)


def with_image_rows(pair: Pair, count: int) -> tuple[Pair, torch.Tensor]:
    """The oracle with ``count`` more ids, whose embeddings are no token's; and all embeddings."""
    generator = torch.Generator().manual_seed(count)
    table = pair.plain.weights["wte.weight"]
    more = torch.randn(count, table.shape[1], generator=generator).to(table.dtype)
    # What fp32 holds, so that both sides have the same rows.
    more = (more.float() * table.std().float()).to(table.dtype)
    table = torch.cat((table, more))
    plain = type(pair.plain)({**pair.plain.weights, "wte.weight": table}, pair.plain.config)
    return Pair(pair.model, plain, pair.ids), table.float()


@pytest.mark.parametrize(("family", "name"), CASES)
def test_image_rows_equal_the_oracle(family, name):
    """Rows that are no token's embedding, between rows of text."""
    remasking = POLICIES[name].remasking or "low_confidence"
    settings = Settings(gen_length=12, block_length=6, remasking=remasking)
    config = POLICIES[name].Config(**SMALL.get(name, {}))
    decided = 0
    for seed, cfg_scale in ((1, 0.0), (3, 0.5)):
        settings = dataclasses.replace(settings, cfg_scale=cfg_scale)
        pair, table = with_image_rows(load_pair(seed, **MODELS[family]), 5)
        prompts = [torch.tensor([4, 7, *range(VOCAB, VOCAB + 5), 9]), torch.tensor([VOCAB + 2, 3])]
        out = dlmcache_cuda.decode(
            pair.model,
            prompt_embeds=[table[prompt] for prompt in prompts],
            cache=config,
            seed=[seed, seed],
            trace=True,
            **decode_arguments(settings),
        )
        for prompt, sequence in zip(prompts, out.sequences, strict=True):
            own = dataclasses.replace(settings, seed=seed)
            record = oracle(pair, prompt, own, config)
            if record.masks_chosen:
                continue  # a step that changes nothing: what drifts then is rounding
            steps = decided_steps(record, own)
            whole = steps == record.forwards
            found = difference(sequence, record, pair, None if whole else steps)
            assert found is None, f"seed {seed}, prompt {prompt.tolist()}: {found}"
            decided += whole
    assert decided >= 2


@pytest.mark.parametrize("options", [{"dtype": "bfloat16"}, {"weights": "fp8"}], ids=str)
def test_other_weights(options):
    model = random_model(3, d_model=48, n_layers=2, mlp_hidden_size=96, **options)
    (prompt,) = random_prompts(3, [9])
    rows = model.embedding[prompt].float()
    by_ids = dlmcache_cuda.decode(model, [prompt], gen_length=8, cache="dual")
    by_rows = dlmcache_cuda.decode(model, prompt_embeds=rows, gen_length=8, cache="dual")
    assert by_ids.ids[0].tolist() == by_rows.ids[0].tolist()


def test_forms():
    model, (prompt,) = model_of("llada"), random_prompts(3, [9])
    rows = model.embedding[prompt]
    (expected,) = dlmcache_cuda.decode(model, prompt_embeds=rows, gen_length=6).ids
    for several in (torch.stack([rows, rows]), [rows, rows]):
        out = dlmcache_cuda.decode(model, prompt_embeds=several, gen_length=6)
        assert [ids.tolist() for ids in out.ids] == [expected.tolist()] * 2


@pytest.mark.parametrize(
    ("rows", "error", "words"),
    [
        (torch.zeros(3, 5), ValueError, [r"prompt_embeds must have shape \[P, 48\]", r"\[3, 5\]"]),
        (torch.zeros(0, 48), ValueError, ["P >= 1", r"\[0, 48\]"]),
        (torch.zeros(48), ValueError, [r"got shape \[48\]"]),
        (torch.zeros(3, 48).long(), TypeError, ["floating-point rows", "int64"]),
        ([torch.zeros(3, 48), torch.full((2, 48), torch.nan)], ValueError, [r"\[1\] holds NaN"]),
        (torch.zeros(600, 48), ValueError, ["600 rows", "gen_length=8", "608", "512"]),
        ([], ValueError, ["empty"]),
        ([[1.0]], TypeError, [r"prompt_embeds\[0\] must be a tensor", "list"]),
        ("rows", TypeError, ["str"]),
    ],
    ids=str,
)
def test_bad_rows(rows, error, words):
    with pytest.raises(error) as caught:
        dlmcache_cuda.decode(model_of("llada"), prompt_embeds=rows, gen_length=8)
    for word in words:
        assert re.search(word, str(caught.value)), f"{word!r} is not in {str(caught.value)!r}"


def test_suppressed_tokens_are_never_predicted():
    model, prompts = model_of("llada"), random_prompts(3, [9, 4])
    options = {"gen_length": 16, "stop_at_eos": False}
    plain = dlmcache_cuda.decode(model, prompts, **options)
    common = plain.sequences[0].ids.mode().values.item()
    out = dlmcache_cuda.decode(model, prompts, suppress_token_ids=[common, common], **options)
    assert all(common not in ids.tolist() for ids in out.ids)
    none = dlmcache_cuda.decode(model, prompts, suppress_token_ids=[], **options)
    assert none.ids[0].tolist() == plain.ids[0].tolist()
    wrong: Any
    for wrong, error in ((["a"], TypeError), ("ab", TypeError), ([-1], ValueError), (3, TypeError)):
        with pytest.raises(error, match="suppress_token_ids"):
            dlmcache_cuda.decode(model, prompts, suppress_token_ids=wrong)


def test_rows_without_tokens_in_a_trace_page():
    model, (prompt,) = model_of("llada"), random_prompts(3, [5])
    out = dlmcache_cuda.decode(
        model, prompt_embeds=model.embedding[prompt], gen_length=4, trace=True, cache="dual"
    )
    assert "\u25a6" in dlmcache_cuda.trace_page(out) or "\\u25a6" in dlmcache_cuda.trace_page(out)
