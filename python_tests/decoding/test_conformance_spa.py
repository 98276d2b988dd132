"""What must hold of methods that select rows by drift: SPA-Cache and dLLM-Cache."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from oracles.cases import make_pair
from oracles.compare import decided_steps, difference, make_config, random_prompts
from oracles.sequence import Settings
from oracles.spa import SpaOptions, decode_spa

import dlmcache_cuda
from dlmcache_cuda.policies.spa import layer_ratios

SEEDS = [1, 2, 3]
LENGTHS = [8, 2, 13]


def decode(model: str, cache: Any, **options: Any) -> list[Any]:
    options = {"gen_length": 16, "block_length": 8, "stop_at_eos": False, **options}
    prompts = random_prompts(3, LENGTHS)
    return dlmcache_cuda.decode(
        make_pair(model, 3).model, prompts, seed=SEEDS, cache=cache, trace=True, **options
    ).sequences


def rows_of(sequence: Any) -> list[list[list[int]]]:
    return [[rows.tolist() for rows in step.rows] for step in sequence.trace]


def assert_same(one: list[Any], other: list[Any]) -> None:
    for a, b in zip(one, other, strict=True):
        assert a.ids.tolist() == b.ids.tolist()
        assert a.commit_step.tolist() == b.commit_step.tolist()
        assert rows_of(a) == rows_of(b)


@pytest.mark.parametrize(
    "commit", [{}, {"steps": 8, "temperature": 0.6}, {"cfg_scale": 0.5}], ids=str
)
@pytest.mark.parametrize("every", [5, 50])
@pytest.mark.parametrize("model", ["llada-gqa", "dream"])
def test_a_generated_refresh_at_every_step_is_a_frozen_prompt(model, every, commit):
    """The proxy is never used then; dLLM-Cache and dKV-Cache-Prefill compute the same."""
    prefill = decode(model, make_config("dkv-prefill", refresh_steps=every), **commit)
    spa = make_config("spa", refresh_steps=every, refresh_gen_steps=1)
    assert_same(decode(model, spa, **commit), prefill)
    dllm = make_config("dllm", prompt_interval_steps=every, gen_interval_steps=1)
    assert_same(decode(model, dllm, **commit), prefill)


@pytest.mark.parametrize("options", [{}, {"kv_rows": "selected"}, {"reuse": "output"}], ids=str)
def test_a_sparse_step_that_may_compute_all_rows_is_a_dense_one(options):
    every = {"budget": "uniform", "max_update_ratio": 1.0, "refresh_gen_steps": 99}
    dense = decode("llada", make_config("spa", refresh_gen_steps=1))
    assert_same(decode("llada", make_config("spa", **every, **options)), dense)
    dllm = make_config("dllm", transfer_ratio=1.0, gen_interval_steps=99)
    assert_same(decode("llada", dllm), dense)


@pytest.mark.parametrize("model", ["llada", "llada-gqa"])
def test_the_proxy_of_full_rank_selects_by_the_values_themselves(model):
    """It is a rotation of them where they have no bias."""
    pair = make_pair(model, 3)
    options = {"max_update_ratio": 0.5, "refresh_gen_steps": 5}
    config = make_config("spa", proxy_rank=10**6, **options)
    settings = Settings(16, 8, stop_at_eos=False)
    compared = 0
    prompts = random_prompts(3, LENGTHS)
    for sequence, prompt, seed in zip(decode(model, config), prompts, SEEDS, strict=True):
        record = decode_spa(
            pair.plain,
            prompt.tolist(),
            dataclasses.replace(settings, seed=seed),
            pair.ids,
            SpaOptions(identifier="value", **options),
        )
        steps = decided_steps(record, settings)
        found = difference(sequence, record, pair, steps if steps < record.forwards else None)
        assert found is None, found
        compared += steps
    assert compared >= 32


def test_budgets_of_llada_instruct():
    """The list of the authors' code for 256 positions."""
    budgets = [int(256 * ratio) for ratio in layer_ratios(make_config("spa"), 32)]
    assert budgets == [
        16, 16, 16, 16, 16, 16, 19, 22, 24, 27, 31, 34, 37, 40, 44, 47,
        50, 53, 56, 58, 60, 61, 63, 63, 64, 63, 61, 58, 54, 49, 44, 38,
    ]  # fmt: skip


@pytest.mark.parametrize("model", ["llada-gqa", "dream"])
def test_every_layer_computes_its_budget(model):
    """Layer 0 all that is carried; the others int(G * ratio) rows of the generation region."""
    layers = make_pair(model, 3).plain.config.n_layers
    config = make_config("spa", max_update_ratio=0.6, refresh_steps=9, refresh_gen_steps=4)
    budgets = [int(16 * ratio) for ratio in layer_ratios(config, layers)]
    assert len(set(budgets)) > 1
    shift = int(model == "dream")
    for sequence in decode(model, config):
        begin, length = len(sequence.prompt_ids) - shift, len(sequence.prompt_ids) + 16
        for step, rows in enumerate(rows_of(sequence)):
            carried = list(range(0 if step % 9 == 0 else begin, length))
            assert rows[0] == carried
            if step % 9 == 0 or step % 4 == 0:
                assert rows == [carried] * layers
            else:
                assert [len(own) for own in rows[1:]] == budgets[1:]
                assert all(set(own) <= set(carried) for own in rows)


@pytest.mark.parametrize(
    "options",
    [
        {"reference_rows": "computed"},
        {"kv_rows": "selected"},
        {"reuse": "output"},
        {"proxy_rank": 2},
        {"warmup_steps": 3},
    ],
    ids=str,
)
def test_an_option_changes_what_is_computed(options):
    """Guards against a setting that is silently ignored."""
    base = {"refresh_gen_steps": 9, "max_update_ratio": 0.5}
    plain = decode("llada", make_config("spa", **base))
    changed = decode("llada", make_config("spa", **base, **options))
    assert sum(rows_of(a) != rows_of(b) for a, b in zip(plain, changed, strict=True)) >= 2


def test_dllm_without_a_ratio_touches_nothing_between_refreshes():
    config = make_config("dllm", transfer_ratio=0, gen_interval_steps=3, prompt_interval_steps=4)
    for sequence in decode("dream", config):
        prompt_rows = list(range(len(sequence.prompt_ids) - 1))
        generated = list(range(len(sequence.prompt_ids) - 1, len(sequence.prompt_ids) + 16))
        for step, rows in enumerate(rows_of(sequence)):
            expected = prompt_rows if step % 4 == 0 else []
            expected = expected + (generated if step % 3 == 0 else [])
            assert rows == [expected] * len(rows)
