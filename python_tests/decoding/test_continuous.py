"""Sequences that join, leave and are removed: each gets the tokens that decode() gives it alone."""

from __future__ import annotations

import gc
import random
import weakref

import pytest
import torch
from oracles.every_policy import CASES, config_of, model_of, options_of

import dlmcache_cuda
from dlmcache_cuda import Decoder
from dlmcache_cuda.testing.tiny_model import random_model

GEN_LENGTH, BLOCK_LENGTH = 24, 6


def random_prompt(chance: random.Random) -> list[int]:
    return [chance.randrange(60) for _ in range(chance.randint(1, 12))]


def run_at_random(decoder: Decoder, chance: random.Random, count: int) -> list:
    """Adds ``count`` sequences at random steps and removes a third of them on their way."""
    asked: dict[int, dict] = {}
    removed, finished, seen = set(), {}, {}
    while len(asked) < count or not decoder.idle:
        while decoder.has_free_slot and len(asked) < count and chance.random() < 0.6:
            prompt, seed = random_prompt(chance), chance.randrange(2**40)
            gen_length = BLOCK_LENGTH * chance.randint(1, GEN_LENGTH // BLOCK_LENGTH)
            number = decoder.add(prompt, gen_length=gen_length, seed=seed)
            asked[number] = {"prompt": prompt, "gen_length": gen_length, "seed": seed}
        in_flight = decoder.in_flight
        if in_flight and chance.random() < 0.1:
            victim = chance.choice(in_flight)
            decoder.remove(victim)
            removed.add(victim)
            assert victim not in decoder.in_flight and decoder.has_free_slot
        in_flight = decoder.in_flight
        events = decoder.step()
        assert sorted(event.sequence for event in events) == list(in_flight)
        for event in events:
            assert event.step == seen.get(event.sequence, -1) + 1
            seen[event.sequence] = event.step
            if event.finished is not None:
                assert event.sequence not in decoder.in_flight
                finished[event.sequence] = event.finished
    assert removed and finished.keys() | removed == asked.keys()
    assert not finished.keys() & removed
    return [(asked[number], result) for number, result in finished.items()]


@pytest.mark.parametrize("family, name", CASES)
def test_sequences_come_and_go_without_a_trace(family, name):
    model = model_of(family)
    options = options_of(name, block_length=BLOCK_LENGTH, cache=config_of(name))
    chance = random.Random(f"{family} {name}")
    decoder = Decoder(model, max_length=36, num_slots=3, gen_length=GEN_LENGTH, **options)
    for asked, result in run_at_random(decoder, chance, 9):
        alone = dlmcache_cuda.decode(
            model, asked["prompt"], gen_length=asked["gen_length"], seed=[asked["seed"]], **options
        ).sequences[0]
        assert result.ids.tolist() == alone.ids.tolist(), asked
        assert result.commit_step.tolist() == alone.commit_step.tolist(), asked
        assert result.rows_computed == alone.rows_computed, asked


@pytest.mark.parametrize(
    "options",
    [
        {"temperature": 0.8, "steps": 12},
        {"remasking": "random_order"},
        {"threshold": 0.4, "cfg_scale": 0.7},
        {"alg": "origin", "temperature": 0.5},
        {"alg": "entropy", "steps": 8, "top_p": 0.9, "temperature": 0.3},
    ],
    ids=lambda options: "-".join(options),
)
def test_samplers_do_not_notice_who_comes_and_goes(options):
    model = model_of("llada")
    settings = {"block_length": BLOCK_LENGTH, "cache": "dual", **options}
    decoder = Decoder(model, max_length=36, num_slots=3, gen_length=GEN_LENGTH, **settings)
    for asked, result in run_at_random(decoder, random.Random(5), 9):
        gen_length, own = asked["gen_length"], dict(settings)
        if "steps" in own:
            own["steps"] = own["steps"] * gen_length // GEN_LENGTH
        alone = dlmcache_cuda.decode(
            model, asked["prompt"], gen_length=gen_length, seed=[asked["seed"]], **own
        ).sequences[0]
        assert result.ids.tolist() == alone.ids.tolist(), asked
        assert result.commit_step.tolist() == alone.commit_step.tolist(), asked


def test_one_block_stays_one_block_when_shorter():
    model = model_of("llada")
    decoder = Decoder(model, max_length=32, num_slots=2, gen_length=20, steps=10)
    number = decoder.add([1, 2, 3], gen_length=7, seed=3)
    while not decoder.idle:
        for event in decoder.step():
            result = event.finished
    # 10 steps for 20 positions are 3.5 for 7.
    alone = dlmcache_cuda.decode(model, [1, 2, 3], gen_length=7, steps=4, seed=[3]).sequences[0]
    assert number == 0 and result.ids.tolist() == alone.ids.tolist()
    assert result.forwards == alone.forwards


def test_canvases_go_beside_prompts():
    model, mask = model_of("llada"), model_of("llada").mask_token_id
    canvas = [4, 5, mask, mask, 7, mask, 8]
    options = {"block_length": 4, "cache": "dual"}
    decoder = Decoder(model, max_length=32, num_slots=2, gen_length=12, **options)
    decoder.add([1, 2, 3], seed=1)
    decoder.step()
    decoder.add(canvas=canvas, seed=2)
    finished = {}
    while not decoder.idle:
        for event in decoder.step():
            finished[event.sequence] = event.finished
    expected = [
        dlmcache_cuda.decode(model, [1, 2, 3], gen_length=12, seed=[1], **options).sequences[0],
        dlmcache_cuda.decode(model, canvas=canvas, seed=[2], **options).sequences[0],
    ]
    for number, sequence in enumerate(expected):
        assert finished[number].canvas_ids.tolist() == sequence.canvas_ids.tolist()
        assert finished[number].commit_step.tolist() == sequence.commit_step.tolist()


def test_an_idle_decoder_computes_nothing():
    decoder = Decoder(model_of("llada"), max_length=32, gen_length=8)
    assert decoder.idle and decoder.step() == [] and decoder.forwards == 0


def test_a_full_decoder_says_so_and_goes_on():
    decoder = Decoder(model_of("llada"), max_length=32, num_slots=1, gen_length=8)
    first = decoder.add([1, 2])
    with pytest.raises(RuntimeError, match=r"no slot is free: 1 sequences are in flight"):
        decoder.add([3])
    decoder.remove(first)
    assert decoder.add([3]) == first + 1


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"prompt": ["a", "b"]}, ValueError, "prompt must be a string, a chat .* list of 2"),
        ({"prompt": []}, ValueError, "prompt is empty"),
        ({"prompt": 3}, TypeError, "prompt must be .* got int"),
        ({"prompt": [70]}, ValueError, "prompt holds token id 70"),
        (
            {"prompt": [1] * 30},
            ValueError,
            r"the canvas has 42 positions \(30 of the prompt.*max_length of this decoder is 32",
        ),
        ({"gen_length": 13}, ValueError, r"gen_length must be an integer in \[1, 12\], got 13"),
        ({"gen_length": "4"}, TypeError, "gen_length must be an integer"),
        ({"gen_length": 5}, ValueError, r"multiple of block_length \(4\), got 5"),
        ({"canvas": [66]}, TypeError, "add takes one of prompt and canvas, got prompt and canvas"),
        ({"prompt": None}, TypeError, "got neither"),
        ({"prompt": None, "canvas": [66] * 13}, ValueError, "canvas has 13 positions from its fir"),
        ({"prompt": None, "canvas": [1, 2]}, ValueError, "canvas has no mask token"),
        ({"prompt": None, "canvas": [66], "gen_length": 4}, TypeError, "does not go with canvas"),
        ({"seed": -1}, ValueError, "seed must be in"),
    ],
    ids=str,
)
def test_a_wrong_add_changes_nothing(arguments, error, message):
    model = random_model(7)
    decoder = Decoder(model, max_length=32, gen_length=12, block_length=4)
    with pytest.raises(error, match=message):
        decoder.add(**{"prompt": [1, 2], **arguments})
    assert decoder.idle
    assert decoder.add(torch.tensor([1, 2])) == 0


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"max_length": 12}, ValueError, r"max_length must be an integer in \[13, 512\], got 12"),
        ({"max_length": 513}, ValueError, "max_length must be"),
        ({"num_slots": 0}, ValueError, r"num_slots must be an integer in \[1, 65536\], got 0"),
        ({"num_slots": 10**20}, ValueError, "num_slots must be an integer in"),
        ({"drafts": 1}, TypeError, "drafts must be True or False"),
        ({"batch_size": 3}, TypeError, "unknown setting 'batch_size'; allowed are gen_length, "),
        ({"callback": print}, TypeError, "unknown setting 'callback'"),
        ({"cache": "nothing"}, ValueError, "cache"),
        ({"threshold": 2}, ValueError, "threshold must be"),
    ],
    ids=str,
)
def test_a_wrong_decoder_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        Decoder(model_of("llada"), **{"max_length": 32, "gen_length": 12, **arguments})


def test_what_does_not_fit_is_refused(monkeypatch):
    from dlmcache_cuda.decoding import memory

    monkeypatch.setattr(memory, "available_bytes", lambda device: 1000)
    with pytest.raises(MemoryError, match="decoding needs"):
        Decoder(model_of("llada"), max_length=64, gen_length=8)


@pytest.mark.parametrize("sequence", [1, -1, "0", None])
def test_only_what_is_in_flight_can_be_removed(sequence):
    decoder = Decoder(model_of("llada"), max_length=32, gen_length=8)
    decoder.add([1])
    with pytest.raises(ValueError, match=r"sequence must be one in flight \(\[0\]\), got"):
        decoder.remove(sequence)


def test_memory_is_given_back_with_the_last_reference(device):
    """Not when the garbage collector comes: caches are gigabytes."""
    decoder = Decoder(random_model(device=device), max_length=32, gen_length=8)
    decoder.add([5, 6, 7])
    decoder.step()
    canvas = weakref.ref(decoder._slots.canvas)
    gc.disable()
    try:
        del decoder
        assert canvas() is None
    finally:
        gc.enable()
