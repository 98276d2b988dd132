"""decode(alg=...) commits what Dream's reference loop commits, at the same steps."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from oracles.compare import MARGIN, difference, load_pair, random_prompts
from oracles.dream import DreamSettings, decode_dream

import dlmcache_cuda

ALGORITHMS = ("origin", "maskgit_plus", "topk_margin", "entropy")
SAMPLING = {
    "greedy": {},
    "top-p": {"top_p": 0.8},
    "warm": {"temperature": 0.6},
    "published": {"temperature": 0.2, "top_p": 0.95},
    "hot-top-k": {"temperature": 1.5, "top_k": 5},
    "warm-all": {"temperature": 0.7, "top_p": 0.9, "top_k": 8},
}
SEEDS = [7, 2**40 + 1, 2**62 + 5]


def check(settings: DreamSettings, model_seed: int, lengths=(5, 9, 1), family="dream", **decode):
    pair = load_pair(model_seed, family=family)
    assert pair.model.shift == pair.plain.config.shift == int(family == "dream")
    prompts = random_prompts(model_seed, list(lengths))
    arguments = dataclasses.asdict(settings)
    del arguments["seed"]
    out = dlmcache_cuda.decode(pair.model, prompts, seed=SEEDS, **arguments, **decode)
    records = []
    for sequence, prompt, seed in zip(out.sequences, prompts, SEEDS, strict=True):
        own = dataclasses.replace(settings, seed=seed)
        record = decode_dream(pair.plain, prompt.tolist(), own, pair.ids)
        if record.margin > MARGIN:
            found = difference(sequence, record, pair)
            assert found is None, f"{own}, prompt {prompt.tolist()}: {found}"
            records.append(record)
    assert len(records) >= len(prompts) - 1
    return records


@pytest.mark.parametrize("alg", ALGORITHMS)
@pytest.mark.parametrize("options", SAMPLING.values(), ids=SAMPLING)
@pytest.mark.parametrize("gen_length,steps", [(8, None), (11, 5)])
def test_algorithms(alg, options, gen_length, steps):
    check(DreamSettings(gen_length, steps, alg, **options), model_seed=gen_length)


@pytest.mark.parametrize("alg", ALGORITHMS)
def test_on_llada(alg):
    check(DreamSettings(12, 8, alg, temperature=0.5, top_p=0.9), model_seed=3, family="llada")
    check(DreamSettings(12, 8, alg), model_seed=3, family="llada")


@pytest.mark.parametrize("alg", ALGORITHMS[1:])
@pytest.mark.parametrize("alg_temp", [0.1, 2.0])
def test_drawn_positions(alg, alg_temp):
    check(DreamSettings(9, 6, alg, alg_temp=alg_temp), model_seed=8)
    check(DreamSettings(9, 6, alg, alg_temp=alg_temp, temperature=0.5), model_seed=9)


@pytest.mark.parametrize("options", [{}, {"temperature": 0.6, "top_p": 0.9}], ids=str)
@pytest.mark.parametrize("alg", ALGORITHMS)
def test_blocks_and_end_of_text(alg, options):
    for model_seed in (4, 5):
        settings = DreamSettings(12, 9, alg, block_length=4, stop_at_eos=True, **options)
        check(settings, model_seed)


def test_few_slots_for_many_sequences():
    settings = DreamSettings(10, 6, "entropy", temperature=0.4, top_p=0.9)
    check(settings, 11, lengths=(3, 30, 12), batch_size=2)


def commits_per_step(record) -> list[int]:
    return [record.commit_step.count(step) for step in range(record.forwards)]


def test_schedule_of_the_reference():
    """With as many steps as masks the first one commits nothing and the last one two."""
    (record, *_) = check(DreamSettings(16, 16, "maskgit_plus"), model_seed=21)
    assert sum(commits_per_step(record)) + record.masks_chosen >= 16
    counts = commits_per_step(record)
    assert counts[0] == 0 and record.forwards == 16


def test_at_least_one_commit_per_step():
    for min_commit in (1, 3):
        settings = DreamSettings(12, 12, "entropy", min_commit=min_commit)
        for record in check(settings, model_seed=22):
            assert record.forwards <= 12
            if not record.masks_chosen:
                assert min(commits_per_step(record)) >= min(min_commit, 1)


def test_entropy_is_what_dream_decodes_with():
    pair = load_pair(12, family="dream")
    prompts = random_prompts(12, [4, 7])
    settings = {"gen_length": 8, "stop_at_eos": False}
    default = dlmcache_cuda.decode(pair.model, prompts, **settings)
    named = dlmcache_cuda.decode(pair.model, prompts, alg="entropy", **settings)
    other = dlmcache_cuda.decode(pair.model, prompts, remasking="low_confidence", **settings)
    for a, b in zip(default.sequences, named.sequences, strict=True):
        assert torch.equal(a.commit_step, b.commit_step) and torch.equal(a.ids, b.ids)
    # LLaDA's schedule commits at the first step, Dream's does not with a step per mask.
    assert (other.sequences[0].commit_step == 0).any()
    assert not any((sequence.commit_step == 0).any() for sequence in default.sequences)


@pytest.mark.parametrize("options", [{"threshold": 0.3}, {"factor": 1.0}], ids=str)
def test_llada_rules_on_dream(options):
    """Confidences are then plain softmax probabilities of the shifted rows."""
    pair = load_pair(13, family="dream")
    (prompt,) = random_prompts(13, [6])
    out = dlmcache_cuda.decode(pair.model, [prompt], gen_length=8, **options)
    first = out.sequences[0].commit_step == 0
    canvas = torch.cat([prompt, torch.full((8,), pair.ids.mask)])
    p = pair.plain.forward(canvas[None])[0][0].softmax(-1)[len(prompt) - 1 : -1]
    assert torch.equal(out.sequences[0].ids[first], p.argmax(-1)[first])
    torch.testing.assert_close(
        out.sequences[0].confidence[first].double(), p.amax(-1)[first], rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("alg", ALGORITHMS)
def test_guidance_and_suppression(alg):
    pair = load_pair(14, family="dream")
    prompts = random_prompts(14, [6, 3])
    settings = {"gen_length": 8, "alg": alg, "seed": SEEDS[:2], "stop_at_eos": False}
    settings |= {"temperature": 1.2, "top_p": 0.95}
    out = dlmcache_cuda.decode(pair.model, prompts, logits_eos_inf=True, **settings)
    for sequence in out.sequences:
        assert pair.ids.end[0] not in sequence.ids[sequence.commit_step >= 0].tolist()
    guided = dlmcache_cuda.decode(pair.model, prompts, cfg_scale=1.0, **settings)
    alone = dlmcache_cuda.decode(
        pair.model, prompts[:1], cfg_scale=1.0, **settings | {"seed": SEEDS[:1]}
    )
    assert torch.equal(guided.sequences[0].ids, alone.sequences[0].ids)
    assert guided.stats.rows_computed == 2 * sum(
        sequence.forwards * (len(prompt) + 8) * pair.model.config.n_layers
        for sequence, prompt in zip(guided.sequences, prompts, strict=True)
    )
