"""What must hold of methods that leave rows out: what is computed, and that no key is stale."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from oracles.cases import make_pair
from oracles.compare import make_config, random_prompts

import dlmcache_cuda
from dlmcache_cuda.decoding.decoder import SlotDecoder

LENGTHS = [8, 2, 13]


def decode(model: str, cache: Any, **options: Any) -> list[Any]:
    pair = make_pair(model, 3)
    prompts = random_prompts(3, LENGTHS)
    out = dlmcache_cuda.decode(
        pair.model, prompts, seed=[1, 2, 3], cache=cache, trace=True, **options
    )
    return out.sequences


def rows_of(sequence: Any) -> list[list[list[int]]]:
    return [[rows.tolist() for rows in step.rows] for step in sequence.trace]


def masked_positions(sequence: Any, step: int) -> set[int]:
    """Positions without a token when a step begins."""
    prompt_length = len(sequence.prompt_ids)
    return {
        prompt_length + g
        for g, committed in enumerate(sequence.commit_step.tolist())
        if committed < 0 or committed >= step
    }


@pytest.mark.parametrize("commit", [{}, {"steps": 8}, {"threshold": 0.7}], ids=str)
@pytest.mark.parametrize("shift_type", ["un", "un_right"])
@pytest.mark.parametrize("model", ["llada", "dream"])
def test_decode_computes_what_was_not_decoded_a_step_earlier(model, shift_type, commit):
    """Rows at step i > 1 of a block: N minus those that were known when step i - 1 began."""
    config = make_config("dkv-decode", cache_reloading_step=99, shift_type=shift_type)
    reused = 0
    for sequence in decode(model, config, gen_length=16, stop_at_eos=False, **commit):
        prompt_length, length = len(sequence.prompt_ids), len(sequence.prompt_ids) + 16
        shift = int(model == "dream")
        for step, layers in enumerate(rows_of(sequence)):
            expected = set(range(length))
            if step > 1 - shift:
                masked = masked_positions(sequence, step - 1)
                needed = {p - 1 for p in masked} if shift else masked
                if shift and shift_type == "un_right":
                    needed |= masked
                if shift and step == 1:
                    needed = set(range(prompt_length - 1, length))  # the last row is kept later
                expected = needed
                reused += 1
            assert all(rows == sorted(expected) for rows in layers), f"step {step}"
    assert reused >= 3


@pytest.mark.parametrize("model", ["llada", "dream"])
def test_prefill_and_pd_never_touch_the_prompt_again(model):
    first = 1 if model == "dream" else 0
    for name in ("dkv-prefill", "dkv-pd"):
        for sequence in decode(model, name, gen_length=16, block_length=8, stop_at_eos=False):
            prompt_rows = set(range(len(sequence.prompt_ids) - first))
            assert sequence.refreshes == 1 + (3 if name == "dkv-pd" else 0)
            for layers in rows_of(sequence)[1:]:
                assert not any(prompt_rows & set(rows) for rows in layers)


@pytest.mark.parametrize("center", ["next", "previous"])
def test_greedy_computes_a_constant_number_of_rows(center):
    """At most what is due, what was due, and the window around each of the centres."""
    config = make_config("dkv-greedy", window_length=3, window_center=center)
    options = {"gen_length": 16, "steps": 8, "stop_at_eos": False}
    for sequence in decode("llada-gqa", config, **options):
        for step, layers in enumerate(rows_of(sequence)):
            if step % 2 == 0:
                assert len(layers[0]) == len(sequence.prompt_ids) + 16
                continue
            assert 4 <= len(layers[0]) <= 4 + 2 * 3
            assert min(layers[0]) >= len(sequence.prompt_ids)
            due = (p for p, s in enumerate(sequence.commit_step.tolist()) if s in (step - 1, step))
            assert {p + len(sequence.prompt_ids) for p in due} <= set(layers[0])


def test_greedy_that_reloads_at_every_step_is_vanilla_in_random_order():
    options = {"gen_length": 16, "block_length": 8, "remasking": "random_order"}
    exact = decode("llada", make_config("dkv-greedy", cache_reloading_step=1), **options)
    for one, other in zip(exact, decode("llada", "none", **options), strict=True):
        assert one.ids.tolist() == other.ids.tolist()
        assert one.commit_step.tolist() == other.commit_step.tolist()
        assert rows_of(one) == rows_of(other)


CACHES = ["prefix", "dual", "dkv-decode", "dkv-prefill", "dkv-pd", "elastic", "d2", "spa"]


@pytest.mark.parametrize("commit", [{}, {"steps": 8, "cfg_scale": 0.5}], ids=str)
@pytest.mark.parametrize("cache", [*CACHES, "dkv-greedy"])
@pytest.mark.parametrize("model", ["llada-gqa", "dream"])
def test_keys_and_values_of_the_first_layer_are_never_stale(model, cache, commit, monkeypatch):
    """They are functions of a row's token: every row is computed once after it was decoded.

    Not so with dKV-Cache's shift type ``un``, which keeps Dream's rows by the token that they
    predict; the token of the row itself may still be a mask.
    """
    if model == "dream" and cache == "dkv-greedy":
        pytest.skip("not defined for Dream")
    if cache in ("dkv-decode", "dkv-pd"):
        cache = make_config(cache, shift_type="un_right")
    plain = make_pair(model, 3).plain
    checked = 0
    step_once = SlotDecoder.step

    def step_and_check(decoder: SlotDecoder) -> Any:
        nonlocal checked
        canvas = decoder.canvas
        tokens = canvas.network_tokens.clone().view(canvas.network_slots, -1)
        lengths = [0 if slot is None else slot.length for slot in decoder.slots]
        finished = step_once(decoder)
        for slot, length in enumerate(canvas.twinned(lengths)):
            if length == 0:
                continue
            u = plain.attention_input(0, plain.embed(tokens[slot : slot + 1, :length]))
            k = plain.rotate(plain.project(0, u, "k"), torch.arange(length))
            for cached, expected in [
                (canvas.cache.k, k),
                (canvas.cache.v, plain.project(0, u, "v")),
            ]:
                mine = cached[0].view(canvas.network_slots, canvas.capacity, *k.shape[2:])
                torch.testing.assert_close(
                    mine[slot, :length].double(), expected[0], rtol=0, atol=1e-4
                )
            checked += 1
        return finished

    monkeypatch.setattr(SlotDecoder, "step", step_and_check)
    decode(model, cache, gen_length=16, block_length=8, stop_at_eos=False, **commit)
    assert checked >= 3 * 8
