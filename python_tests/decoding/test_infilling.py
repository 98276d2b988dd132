"""decode(canvas=...): given text stays, blocks and schedules count masks, the tail has the end."""

from __future__ import annotations

import itertools
import re
from typing import Any

import pytest
import torch
from oracles.canvases import random_region
from oracles.checkpoint import EOS, EOT, MASK, VOCAB
from oracles.compare import load_pair, random_prompts
from oracles.every_policy import CASES, POLICIES, assert_same, config_of, model_of, options_of

import dlmcache_cuda

LENGTHS = [3, 11, 1, 7]
SEEDS = [11, 5, 2**40, 0]


def canvases(model: Any, seed: int = 4, lengths=(21, 9, 30, 14)) -> list[torch.Tensor]:
    ends = tuple(model.end_token_ids)
    prompts = random_prompts(seed, LENGTHS)
    return [
        torch.cat([p, torch.tensor(random_region(seed + i, n, 0.5, model.mask_token_id, ends))])
        for i, (p, n) in enumerate(zip(prompts, lengths, strict=True))
    ]


@pytest.mark.parametrize(("family", "name"), CASES)
def test_a_batch_of_canvases_gives_what_each_gives_alone(family, name):
    model = model_of(family)
    given = canvases(model)
    # Not Dream's schedule: behind a step that commits nothing, drift is rounding.
    options = {"remasking": "low_confidence", "block_length": 6, "trace": True}
    options = options_of(name, cache=config_of(name), **options)
    out = dlmcache_cuda.decode(model, canvas=given, seed=SEEDS, batch_size=2, **options)
    for i, (ids, seed, sequence) in enumerate(zip(given, SEEDS, out.sequences, strict=True)):
        alone = dlmcache_cuda.decode(model, canvas=ids, seed=[seed], **options).sequences[0]
        assert_same(sequence, alone, f"sequence {i}")
        kept = ids != model.mask_token_id
        assert torch.equal(sequence.canvas_ids[kept], ids[kept])
        assert torch.equal(sequence.given, kept[len(sequence.prompt_ids) :])
        assert (sequence.commit_step[sequence.given] == -1).all()


@pytest.mark.parametrize("commit", [{"temperature": 0.6, "cfg_scale": 0.5}, {"threshold": 0.3}])
@pytest.mark.parametrize(("family", "name"), CASES)
def test_exact_settings_equal_vanilla(family, name, commit):
    if "threshold" in commit and POLICIES[name].remasking:
        pytest.skip("a fixed number of commits only")
    model = model_of(family)
    options = options_of(name, block_length=6, canvas=canvases(model), seed=SEEDS, **commit)
    exact = dlmcache_cuda.decode(model, cache=POLICIES[name].exact_config(), **options)
    vanilla = dlmcache_cuda.decode(model, **options)
    for a, b in zip(exact.sequences, vanilla.sequences, strict=True):
        assert a.ids.tolist() == b.ids.tolist()
        assert a.commit_step.tolist() == b.commit_step.tolist()
        assert (a.forwards, a.stop_reason) == (b.forwards, b.stop_reason)


@pytest.mark.parametrize(("family", "name"), CASES)
def test_a_prompt_and_masks_decode_as_a_canvas(family, name):
    model = model_of(family)
    prompts = random_prompts(3, [9, 4])
    masks = torch.full((12,), model.mask_token_id)
    options = options_of(name, block_length=4, seed=3, trace=True, cache=config_of(name))
    one = dlmcache_cuda.decode(model, prompts, gen_length=12, **options)
    other = dlmcache_cuda.decode(
        model, canvas=[torch.cat([prompt, masks]) for prompt in prompts], **options
    )
    for i, (a, b) in enumerate(zip(one.sequences, other.sequences, strict=True)):
        assert_same(a, b, f"sequence {i}")
        assert torch.equal(a.prompt_ids, b.prompt_ids) and not b.given.any()


@pytest.mark.parametrize(
    ("commit", "forwards"),
    [
        ({"remasking": "low_confidence"}, 10),
        ({"remasking": "random_order"}, 10),
        ({"remasking": "low_confidence", "steps": 8}, 1 + 2 + 2 + 2),
        ({"remasking": "low_confidence", "steps": 4}, 4),
        ({"alg": "entropy"}, 10),
        ({"alg": "entropy", "steps": 8}, 8),
    ],
    ids=str,
)
@pytest.mark.parametrize("family", ["llada", "dream"])
def test_blocks_and_schedules_count_masks(family, commit, forwards):
    """Blocks of 4: one mask, none, three, none, four, and at the end two positions, both masks."""
    model, m = model_of(family), model_of(family).mask_token_id
    blocks = [[m, 1, 2, 3], [4, 5, 6, 7], [m, 8, m, m], [9, 1, 2, 3], [m] * 4, [m, m]]
    canvas = torch.tensor([7, *itertools.chain(*blocks)])
    options = {"block_length": 4, "stop_at_eos": False, "seed": 1, **commit}
    (sequence,) = dlmcache_cuda.decode(model, canvas=canvas, **options).sequences
    assert sequence.forwards == forwards and sequence.stop_reason == "length"
    assert (sequence.ids != m).all()
    made = [sequence.commit_step[4 * block : 4 * block + 4] for block in (0, 2, 4, 5)]
    made = [sorted(steps[steps >= 0].tolist()) for steps in made]
    assert [len(steps) for steps in made] == [1, 3, 4, 2]
    # Blocks come one after the other, and each has its steps to itself.
    assert all(one[-1] < other[0] for one, other in itertools.pairwise(made))
    if "alg" not in commit and "steps" not in commit:
        assert list(itertools.chain(*made)) == list(range(10))


@pytest.mark.parametrize("cache", ["none", "elastic", "spa"])
def test_an_end_token_before_given_text_ends_nothing(cache):
    """Given end tokens never end a text; decoded ones only in the tail."""
    found = {"hole": 0, "tail": 0}
    for seed in range(12):
        pair = load_pair(seed)
        (prompt,) = random_prompts(seed, [4])
        canvas = [*prompt.tolist(), *[MASK] * 6, EOT, 3, EOS, *[MASK] * 6, 5, *[MASK] * 8]
        config = config_of(cache)
        if cache == "spa":
            config = POLICIES["spa"].Config(early_stop_steps=4, proxy_rank=5)
        (sequence,) = dlmcache_cuda.decode(pair.model, canvas=canvas, cache=config).sequences
        assert sequence.ids[[6, 7, 8, 15]].tolist() == [EOT, 3, EOS, 5]
        ends = [g for g, token in enumerate(sequence.ids.tolist()) if token in (EOS, EOT)]
        tail = [g for g in ends if g > 15]
        first_end = tail[0] if tail else len(sequence.ids)
        decoded = sequence.commit_step[:first_end] >= 0
        final = config_of("elastic").mask_is_final and cache == "elastic"
        masks = sequence.ids[:first_end] == MASK
        assert (decoded | sequence.given[:first_end] | masks).all()
        assert final or not masks.any() or sequence.stop_reason != "end_of_text"
        expected = [token for token in sequence.ids[:first_end].tolist() if token != MASK]
        assert sequence.visible_ids.tolist() == expected
        assert sequence.num_visible == len(expected) - 4
        found["hole"] += any(g < 15 and g not in (6, 8) for g in ends)
        found["tail"] += sequence.stop_reason == "end_of_text"
    assert found["hole"] > 0 and found["tail"] > 0


@pytest.mark.parametrize("name", [name for family, name in CASES if family == "llada"])
def test_a_canvas_may_begin_with_a_mask(name):
    model = model_of("llada")
    m = model.mask_token_id
    canvas = [m, m, m, 4, m, 5, m, m]
    options = options_of(name, canvas=canvas, block_length=4, seed=3, stop_at_eos=False)
    exact = dlmcache_cuda.decode(model, cache=POLICIES[name].exact_config(), **options)
    vanilla = dlmcache_cuda.decode(model, **options)
    assert exact.ids[0].tolist() == vanilla.ids[0].tolist()
    out = dlmcache_cuda.decode(model, cache=config_of(name), cfg_scale=0.5, **options)
    assert out.sequences[0].ids[[3, 5]].tolist() == [4, 5]
    assert len(out.sequences[0].prompt_ids) == 0


def test_forms_of_canvases():
    model = load_pair(1).model
    listed = [1, MASK, 2, MASK]
    (expected,) = dlmcache_cuda.decode(model, canvas=listed).ids
    tensor = torch.tensor(listed)
    for several in ([listed, listed], torch.stack([tensor, tensor]), [tensor, listed]):
        out = dlmcache_cuda.decode(model, canvas=several)
        assert [ids.tolist() for ids in out.ids] == [expected.tolist()] * 2
    assert dlmcache_cuda.decode(model, canvas=tensor).ids[0].tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"canvas": [1, 2]}, ValueError, ["canvas", f"no mask token .{MASK}.", "nothing"]),
        ({"canvas": [[1, MASK], [1, 2]]}, ValueError, [r"canvas\[1\]", "no mask"]),
        ({"canvas": []}, ValueError, ["canvas is empty"]),
        ({"canvas": [[1, MASK], []]}, ValueError, [r"canvas\[1\] has no tokens"]),
        ({"canvas": torch.zeros(0).long()}, ValueError, ["canvas is empty"]),
        ({"canvas": [1, MASK, VOCAB]}, ValueError, ["canvas", str(VOCAB)]),
        ({"canvas": [1] + [MASK] * 200}, ValueError, ["canvas has 201", "128"]),
        ({"canvas": "a [MASK:3]"}, TypeError, ["canvas", "str"]),
        ({"canvas": ["a"]}, TypeError, [r"canvas\[0\]", "str"]),
        ({"canvas": [1.5, MASK]}, TypeError, [r"canvas\[0\]", "float"]),
        ({"canvas": torch.ones(3)}, TypeError, ["canvas", "integer", "float32"]),
        ({"canvas": torch.ones(1, 1, 3)}, ValueError, ["canvas", r"\[1, 1, 3\]"]),
        ({"canvas": [1, MASK], "prompts": [[1]]}, TypeError, ["got prompts and canvas"]),
        ({}, TypeError, ["one of prompts, canvas and prompt_embeds, got none"]),
        ({"canvas": [1, MASK], "steps": 0}, ValueError, ["steps", "0"]),
        ({"canvas": [1, MASK], "block_length": 0}, ValueError, ["block_length", "0"]),
        (
            {"canvas": [[1, MASK], [1, MASK, MASK]], "steps": 3, "block_length": 1},
            ValueError,
            ["steps", r"2 in canvas\[1\]", "got 3"],
        ),
    ],
    ids=str,
)
def test_bad_canvases(options, error, words):
    with pytest.raises(error) as caught:
        dlmcache_cuda.decode(load_pair(1).model, **options)
    for word in words:
        assert re.search(word, str(caught.value)), f"{word!r} is not in {str(caught.value)!r}"


def test_dream_needs_a_row_before_the_first_mask():
    model = model_of("dream")
    with pytest.raises(ValueError, match="canvas begins with a mask, but Dream predicts"):
        dlmcache_cuda.decode(model, canvas=[model.mask_token_id, 3])
