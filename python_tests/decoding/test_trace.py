"""What a trace says is what happened: checked against the sequence, for every policy."""

from __future__ import annotations

import json

import pytest
import torch
from oracles.compare import random_prompts
from oracles.every_policy import CASES, POLICIES, config_of, model_of, options_of

import dlmcache_cuda
from dlmcache_cuda.assets.questions import make_questions
from dlmcache_cuda.decoding import decoder as decoder_module

GEN_LENGTH = 24


def traced(family: str, name: str, **options):
    options = {"gen_length": GEN_LENGTH, "cache": config_of(name), "seed": 3, **options}
    return dlmcache_cuda.decode(
        model_of(family), random_prompts(3, [9, 4]), trace=True, **options_of(name, **options)
    )


@pytest.mark.parametrize(("family", "name"), CASES)
def test_what_was_written_makes_the_sequence(family, name):
    for sequence in traced(family, name, threshold=None, stop_at_eos=False).sequences:
        trace, prompt_length = sequence.trace, len(sequence.prompt_ids)
        masks = torch.full((GEN_LENGTH,), trace.mask_token_id)
        canvas = torch.cat((sequence.prompt_ids, masks))
        commit_step = sequence.commit_step.tolist()
        for number, step in enumerate(trace):
            canvas[step.written] = step.tokens
            assert step.candidates.tolist() == sorted(set(step.candidates.tolist()))
            said = dict(zip(step.candidates.tolist(), step.confidence.tolist(), strict=True))
            token = dict(zip(step.candidates.tolist(), step.predicted.tolist(), strict=True))
            committed = [p for p in range(GEN_LENGTH) if commit_step[p] == number]
            for position in committed:
                assert said[prompt_length + position] == sequence.confidence[position].item()
                assert token[prompt_length + position] in (
                    sequence.ids[position].item(),
                    trace.mask_token_id,
                )
            assert {p - prompt_length for p in step.written.tolist()} <= set(committed)
        decided = canvas[prompt_length:] != trace.mask_token_id
        assert torch.equal(canvas[prompt_length:][decided], sequence.ids[decided])


@pytest.mark.parametrize(("family", "name"), CASES)
def test_reasons_and_drift_explain_the_rows(family, name):
    found = set()
    for sequence in traced(family, name, stop_at_eos=False).sequences:
        trace = sequence.trace
        assert (trace.cache, trace.n_layers) == (name, model_of(family).config.n_layers)
        for number, step in enumerate(trace):
            found.add(step.reason)
            assert (step.reason == "start") == (number == 0)
            assert (step.reason == "schedule") == (step.refresh and number > 0)
            assert (step.reason == "drift") == (step.boundary is not None and number > 0)
            begin, end = step.entered
            assert 0 <= begin <= step.rows[0].min() and step.rows[0].max() < end
            below = [s is not None and s < trace.gamma for s in step.similarity]
            if step.boundary is None:
                assert not any(below)
            else:
                assert below.index(True) == step.boundary - 1
            for layer, drift in enumerate(step.selection):
                if drift is None:
                    continue
                found.add("selection")
                if name in ("spa", "dllm"):  # composed: what entered the step is not counted
                    prompt = len(sequence.prompt_ids) - model_of(family).shift
                    forced = max(0, prompt - begin) if name == "dllm" else 0
                    assert len(step.rows[layer]) == trace.budgets[layer] + forced
                if None not in (drift.least_computed, drift.highest_reused):
                    assert drift.highest >= drift.least_computed >= drift.highest_reused >= 0
    if name in ("elastic", "composed"):
        assert "drift" in found
    if name in ("spa", "dllm"):
        assert {"schedule", "selection"} <= found


@pytest.mark.parametrize(("family", "name"), CASES)
def test_to_dict_is_json_with_everything(family, name):
    out = traced(family, name)
    text = json.dumps(out.to_dict(), allow_nan=False)
    for mine, sequence in zip(json.loads(text)["sequences"], out.sequences, strict=True):
        record, trace = mine["trace"], sequence.trace
        assert record["cache"] == name and len(record["steps"]) == len(trace)
        for saved, step in zip(record["steps"], trace, strict=True):
            for ranges, rows in zip(saved["rows"], step.rows, strict=True):
                assert [p for begin, end in ranges for p in range(begin, end)] == rows.tolist()
                assert all(begin < end for begin, end in ranges)
            assert saved["candidates"] == step.candidates.tolist()
            assert torch.equal(torch.tensor(saved["confidence"]), step.confidence)
            assert (saved["importance"] is None) == (name != "d2")
            if name == "d2":
                assert torch.equal(torch.tensor(saved["importance"]), step.importance)
                # All rows flow somewhere: each row's attention sums to 1.
                assert step.importance.sum().item() == pytest.approx(len(step.importance), rel=1e-4)


@pytest.mark.parametrize("name", ["dual", "elastic", "spa", "dllm", "composed"])
def test_steps_that_read_nothing_record_the_same(name, monkeypatch):
    exact = traced("llada", name)
    monkeypatch.setattr(decoder_module, "reads_nothing", lambda device: True)
    mine = traced("llada", name)
    for a, b in zip(mine.sequences, exact.sequences, strict=True):
        for one, other in zip(a.trace, b.trace, strict=True):
            assert one.reason == other.reason and one.entered == other.entered
            assert one.candidates.tolist() == other.candidates.tolist()
            assert one.predicted.tolist() == other.predicted.tolist()
            assert one.written.tolist() == other.written.tolist()
            torch.testing.assert_close(one.confidence, other.confidence)
            drifts = [[d and d.highest for d in step.selection] for step in (one, other)]
            assert drifts[0] == pytest.approx(drifts[1], abs=1e-6)


def test_padding_behind_an_early_end_is_written():
    """SPA-Cache overwrites what stands behind the end, so a commit is not the last word."""
    model = dlmcache_cuda.load()
    config = POLICIES["spa"].Config(early_stop_steps=8, proxy_rank=5)
    question = [{"role": "user", "content": "Hello"}]
    out = dlmcache_cuda.decode(model, question, gen_length=48, cache=config, trace=True)
    (sequence,) = out.sequences
    assert (sequence.ids == model.pad_token_id).any()
    canvas = torch.full((48,), model.mask_token_id)
    for step in sequence.trace:
        canvas[step.written - len(sequence.prompt_ids)] = step.tokens
    decided = canvas != model.mask_token_id
    assert torch.equal(canvas[decided], sequence.ids[decided])


def test_pieces_make_the_text():
    model = dlmcache_cuda.load()
    question = [{"role": "user", "content": make_questions(1, seed=5)[0].prompt}]
    (sequence,) = dlmcache_cuda.decode(model, question, gen_length=32, trace=True).sequences
    pieces = sequence.trace.pieces
    visible = sequence.visible_ids.tolist()
    assert len(visible) > 5
    assert sequence.text == "".join(pieces[token] for token in visible).strip()
