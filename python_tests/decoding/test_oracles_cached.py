"""The oracles of caches without the package: against vanilla, each other and replayed rows."""

from __future__ import annotations

import functools
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from oracles import dkv
from oracles.checkpoint import EOS, EOT, MASK, write_checkpoint
from oracles.dllm import DllmOptions, decode_dllm
from oracles.model import PlainLlada
from oracles.selection import distance, most_moved
from oracles.sequence import Canvas, Record, Settings, TokenIds
from oracles.spa import SpaOptions, decode_spa
from oracles.vanilla import decode_vanilla

SEEDS = range(2)
FAMILIES = ["llada", "dream"]
COMMITS: dict[str, dict[str, Any]] = {
    "fixed": {"seed": 0},
    "two-per-step": {"seed": 1, "steps": 6, "temperature": 0.6},
    "threshold": {"seed": 2, "threshold": 0.8},
    "guided": {"seed": 3, "cfg_scale": 0.5},
    "random-order": {"seed": 4, "remasking": "random_order"},
}


@functools.cache
def load_plain(family: str) -> tuple[PlainLlada, TokenIds]:
    with TemporaryDirectory() as folder:
        write_checkpoint(Path(folder), 2, family=family, n_kv_heads=2)
        model = PlainLlada.from_folder(folder)
    return model, TokenIds(mask=MASK, end=(EOS, EOT)[: 2 - model.config.shift], pad=EOS)


def decode(oracle, family: str, options: Any = None, *, seed: int = 0, **settings: Any) -> Record:
    model, ids = load_plain(family)
    prompt = torch.randint(MASK, (6,), generator=torch.Generator().manual_seed(seed)).tolist()
    everything = {"gen_length": 12, "block_length": 6, "seed": seed, **settings}
    arguments = [model, prompt, Settings(**everything), ids]
    return oracle(*arguments) if options is None else oracle(*arguments, options)


def assert_same(one: Record, other: Record) -> None:
    assert one.ids == other.ids
    assert one.commit_step == other.commit_step
    assert one.stop_reason == other.stop_reason
    assert one.forwards == other.forwards


EXACT = {
    "dkv-decode": (dkv.decode_dkv_decode, dkv.DecodeOptions(cache_reloading_step=1)),
    "dkv-prefill": (dkv.decode_dkv_prefill, dkv.PrefillOptions(refresh_steps=1)),
    "dkv-pd": (dkv.decode_dkv_pd, dkv.PdOptions(prompt_refresh_steps=1)),
    "spa": (decode_spa, SpaOptions(refresh_steps=1)),
    "spa-warm": (decode_spa, SpaOptions(refresh_steps=3, warmup_steps=99)),
    "dllm": (decode_dllm, DllmOptions(prompt_interval_steps=1, gen_interval_steps=1)),
}


@pytest.mark.parametrize("commit", COMMITS)
@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("family", FAMILIES)
def test_refreshing_at_every_step_equals_vanilla(family, name, commit):
    oracle, options = EXACT[name]
    cached = decode(oracle, family, options, **COMMITS[commit])
    vanilla = decode(decode_vanilla, family, **COMMITS[commit])
    assert_same(cached, vanilla)
    assert cached.layer_rows == vanilla.layer_rows
    assert cached.refresh_steps == vanilla.refresh_steps == list(range(vanilla.forwards))


@pytest.mark.parametrize("seed", SEEDS)
def test_greedy_that_refreshes_at_every_step_equals_vanilla(seed):
    options = {"remasking": "random_order", "steps": 6}
    greedy = decode(dkv.decode_dkv_greedy, "llada", dkv.GreedyOptions(1), seed=seed, **options)
    assert_same(greedy, decode(decode_vanilla, "llada", seed=seed, **options))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("every", [3, 50])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_frozen_prompt_is_the_same_in_all_methods(family, every, seed):
    """Three oracles that share no code compute the generated rows against the same prompt keys."""
    prefill = decode(dkv.decode_dkv_prefill, family, dkv.PrefillOptions(every), seed=seed)
    options = SpaOptions(refresh_steps=every, refresh_gen_steps=1)
    for other in (
        decode(dkv.decode_dkv_pd, family, dkv.PdOptions(1, "un", every), seed=seed),
        decode(decode_spa, family, options, seed=seed),
        decode(decode_dllm, family, DllmOptions(every, 1), seed=seed),
    ):
        assert_same(other, prefill)
        assert other.layer_rows == prefill.layer_rows


def replay(record: Record, family: str, **settings: Any) -> Record:
    """The rows of a record once more, their K and V written in place over the old ones."""

    def oracle(model: PlainLlada, prompt: list[int], settings: Settings, ids: TokenIds) -> Record:
        canvas = Canvas(prompt, settings, ids, model.config.shift)
        k, v = model.empty_cache(canvas.passes, canvas.length)
        for turn in canvas.turns():
            rows = sorted(record.layer_rows[canvas.step][0])
            logits = model.forward_rows(canvas.inputs()[:, rows], torch.tensor(rows), k, v)
            canvas.computed([rows] * model.config.n_layers, refresh=False)
            canvas.decide(turn, rows, logits)
        return canvas.finish()

    with torch.no_grad():
        return decode(oracle, family, **settings)


KEPT = {
    "decode": (dkv.decode_dkv_decode, dkv.DecodeOptions(4)),
    "un_right": (dkv.decode_dkv_decode, dkv.DecodeOptions(3, "un_right")),
    "right": (dkv.decode_dkv_decode, dkv.DecodeOptions(5, "right")),
    "pd": (dkv.decode_dkv_pd, dkv.PdOptions(3)),
    "pd-prompt": (dkv.decode_dkv_pd, dkv.PdOptions(4, "un_right", 7)),
    "greedy": (dkv.decode_dkv_greedy, dkv.GreedyOptions(3, 2)),
    "greedy-previous": (dkv.decode_dkv_greedy, dkv.GreedyOptions(2, 4, "previous")),
}


@pytest.mark.parametrize("commit", COMMITS)
@pytest.mark.parametrize("name", KEPT)
@pytest.mark.parametrize("family", FAMILIES)
def test_concatenated_keys_are_those_written_in_place(family, name, commit):
    oracle, options = KEPT[name]
    settings = {"stop_at_eos": False, **COMMITS[commit]}
    if oracle is dkv.decode_dkv_greedy:
        if family == "dream" or settings.get("threshold"):
            pytest.skip("Greedy is for LLaDA and a fixed number of commits")
        settings = {**settings, "remasking": "random_order"}
    record = decode(oracle, family, options, **settings)
    assert_same(replay(record, family, **settings), record)
    assert len({tuple(rows[0]) for rows in record.layer_rows}) > 1  # it did leave out rows


@pytest.mark.parametrize("seed", SEEDS)
def test_decode_computes_what_was_masked_a_step_earlier(seed):
    """Rows at step i > 1 of a block: N minus those decoded when step i - 1 began."""
    record = decode(dkv.decode_dkv_decode, "llada", stop_at_eos=False, seed=seed)
    if record.masks_chosen:
        pytest.skip("a predicted mask leaves a position open")
    for step, rows in enumerate(record.rows):
        assert rows == (18 if step % 6 <= 1 else 12 - step + 1)


@pytest.mark.parametrize("options", [{}, {"reuse": "output"}, {"kv_rows": "selected"}], ids=str)
@pytest.mark.parametrize("seed", SEEDS)
def test_spa_with_all_rows_selected_is_dense(seed, options):
    sparse = SpaOptions(refresh_gen_steps=99, budget="uniform", max_update_ratio=1.0, **options)
    one = decode(decode_spa, "llada", sparse, seed=seed)
    other = decode(decode_spa, "llada", SpaOptions(refresh_gen_steps=1), seed=seed)
    assert_same(one, other)
    assert one.layer_rows == other.layer_rows


@pytest.mark.parametrize("seed", SEEDS)
def test_dllm_with_all_rows_selected_is_dense(seed):
    one = decode(decode_dllm, "llada", DllmOptions(7, 99, 1.0), seed=seed)
    assert_same(one, decode(decode_dllm, "llada", DllmOptions(7, 1), seed=seed))


@pytest.mark.parametrize("seed", SEEDS)
def test_spa_at_full_rank_selects_by_the_values(seed):
    """The proxy is a rotation of V there; LLaDA has no bias in it."""
    options = {"refresh_gen_steps": 5, "max_update_ratio": 0.5}
    proxy = decode(decode_spa, "llada", SpaOptions(proxy_rank=999, **options), seed=seed)
    value = decode(decode_spa, "llada", SpaOptions(identifier="value", **options), seed=seed)
    assert min(proxy.row_gaps) > 1e-9
    assert_same(proxy, value)
    assert proxy.layer_rows == value.layer_rows


@pytest.mark.parametrize(
    "options",
    [
        {"reference_rows": "computed"},
        {"kv_rows": "selected"},
        {"reuse": "output"},
        {"proxy_rank": 2},
        {"budget": "uniform"},
        {"warmup_steps": 3},
    ],
    ids=str,
)
def test_every_option_of_spa_changes_what_is_selected(options):
    """Guards against an option that is silently ignored."""
    changed = 0
    for seed in range(4):
        base = {"refresh_gen_steps": 9, "proxy_rank": 99, "max_update_ratio": 0.5}
        one = decode(decode_spa, "llada", SpaOptions(**base), seed=seed)
        other = decode(decode_spa, "llada", SpaOptions(**{**base, **options}), seed=seed)
        changed += one.layer_rows != other.layer_rows
    assert changed >= 3


def test_spa_budget_of_llada_instruct():
    """The list of the authors' code for G = 256; layer 0 is dense whatever its entry says."""
    expected = "16,16,16,16,16,16,19,22,24,27,31,34,37,40,44,47,50,53,56,58,60,61,63,63,64,63,61,58"
    budgets = SpaOptions().budgets(32, 256)
    assert budgets == [int(k) for k in expected.split(",")] + [54, 49, 44, 38]


def test_distance_of_unit_vectors():
    a = torch.tensor([[1.0, 0], [0, 0], [0, 0], [3, 0], [2, 0]], dtype=torch.float64)
    b = torch.tensor([[0.0, 2], [0, 0], [1, 1], [-1, 0], [7, 0]], dtype=torch.float64)
    found = distance(a, b)
    assert torch.allclose(found, torch.tensor([2**0.5, 0, 2**0.5, 2, 0], dtype=torch.float64))
    assert most_moved(a, b, 2) == ([0, 3], 0.0)  # rows 0 and 2 tie
    assert most_moved(a, b, 4) == ([0, 1, 2, 3], 2**0.5)  # 1 and 4 did not move
    assert most_moved(a, b, 0) == most_moved(a[:0], b[:0], 2) == ([], float("inf"))
    twins = [0, 3, 3, 0, 3]  # rows of the same vectors
    assert most_moved(a[twins], b[twins], 2) == ([1, 2], 2 - 2**0.5)
