"""stream(): events that add up to what decode() returns, drafts, and text that only grows."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from oracles.every_policy import CASES, config_of, model_of, options_of
from oracles.resident import resident

import dlmcache_cuda
from dlmcache_cuda.assets.questions import make_questions
from dlmcache_cuda.decoding.partial_text import TextSpan, spans, stable_text
from dlmcache_cuda.decoding.step_program import StepProgram

PROMPTS = [[3, 5, 8, 2], [9, 1], [30, 31, 32, 33, 34, 35], [7]]
QUESTIONS = [[{"role": "user", "content": q.prompt}] for q in make_questions(3, seed=5)]


@pytest.fixture(scope="module")
def bundled():
    return dlmcache_cuda.load(device="cpu")


@pytest.mark.parametrize("family, name", CASES)
def test_events_add_up_to_what_decode_returns(family, name):
    model = model_of(family)
    options = options_of(
        name, gen_length=16, block_length=8, cache=config_of(name), batch_size=2, seed=9
    )
    expected = dlmcache_cuda.decode(model, PROMPTS, **options)
    mask = model.mask_token_id
    canvases = {n: torch.full((16,), mask) for n in range(len(PROMPTS))}
    stream = dlmcache_cuda.stream(model, PROMPTS, **options)
    forwards = set()
    for event in stream:
        forwards.add(event.forward)
        canvas = canvases[event.sequence]
        assert (canvas[event.committed] == mask).all()
        # Only what was committed differs from before.
        before = event.ids.clone()
        before[event.committed] = mask
        assert name == "spa" or before.tolist() == canvas.tolist()
        canvases[event.sequence] = event.ids
        assert ((event.draft == mask) | (event.ids == mask)).all()
        if event.finished is not None:
            same = expected.sequences[event.sequence]
            assert event.finished.ids.tolist() == same.ids.tolist()
            assert event.finished.commit_step.tolist() == same.commit_step.tolist()
            assert event.step == same.forwards - 1
    assert len(forwards) == stream.output.stats.forwards == expected.stats.forwards
    for name in ("sequence_forwards", "rows_computed", "refreshes", "visible_tokens"):
        assert getattr(stream.output.stats, name) == getattr(expected.stats, name)


def test_the_draft_is_what_the_model_predicts_of_masks_of_the_block():
    model = model_of("llada")
    prompt, block = PROMPTS[0], 6
    canvas = torch.tensor(prompt + [model.mask_token_id] * 18)
    for event in dlmcache_cuda.stream(model, prompt, gen_length=18, block_length=block):
        predicted = model.logits([canvas])[0].argmax(-1)[len(prompt) :]
        begin = event.step // block * block
        masked = event.ids == model.mask_token_id
        masked[:begin] = masked[begin + block :] = False
        expected = torch.full((18,), model.mask_token_id)
        expected[masked] = predicted[masked]
        assert event.draft.tolist() == expected.tolist()
        canvas[len(prompt) :] = event.ids


def test_a_drawn_origin_still_drafts_what_it_holds_back():
    model = model_of("llada")
    options = {"gen_length": 12, "alg": "origin", "steps": 6, "temperature": 0.5}
    first = next(dlmcache_cuda.stream(model, PROMPTS[0], seed=1, **options))
    waiting = first.ids == model.mask_token_id
    assert waiting.any() and (first.draft[waiting] != model.mask_token_id).any()


@pytest.mark.parametrize("graphs", [False, True], ids=["guessed", "replayed"])
@pytest.mark.parametrize("cfg_scale", [0.0, 0.7], ids=["plain", "guided"])
@pytest.mark.parametrize("name", ["elastic", "composed", "dkv-pd", "d2"])
def test_drafts_of_steps_as_on_a_gpu_are_those_of_exact_ones(name, cfg_scale, graphs):
    """A step that goes on where its guess was wrong predicts anew; that is the draft."""
    model = model_of("llada")
    options = options_of(name, cache=config_of(name), gen_length=16, cfg_scale=cfg_scale)

    def drafts() -> list[list[int]]:
        return [event.draft.tolist() for event in dlmcache_cuda.stream(model, PROMPTS, **options)]

    exact = drafts()
    assert any(token != model.mask_token_id for draft in exact for token in draft)
    with resident(graphs):
        assert drafts() == exact


def test_predictions_are_dropped_when_nobody_asks(monkeypatch):
    kept = []
    run = StepProgram.run

    def spied(self):
        output = run(self)
        kept.append(output.predicted is not None)
        return output

    monkeypatch.setattr(StepProgram, "run", spied)
    options = {"gen_length": 4}
    dlmcache_cuda.decode(model_of("llada"), PROMPTS[0], **options)
    assert not any(kept)
    events = list(dlmcache_cuda.stream(model_of("llada"), PROMPTS[0], drafts=False, **options))
    assert not any(kept) and all(event.draft is None for event in events)
    list(dlmcache_cuda.stream(model_of("llada"), PROMPTS[0], **options))
    assert kept[-4:] == [True] * 4


@pytest.mark.parametrize("settings", [{"block_length": 32, "threshold": 0.9}, {"steps": 24}])
def test_text_only_grows_and_new_text_adds_up(bundled, settings):
    stream = dlmcache_cuda.stream(bundled, QUESTIONS, gen_length=96, cache="dual", **settings)
    texts = dict.fromkeys(range(3), "")
    for event in stream:
        assert event.text.startswith(texts[event.sequence])
        assert event.text == texts[event.sequence] + event.new_text
        texts[event.sequence] = event.text
        shown = "".join(span.text for span in event.spans)
        assert shown == event.text + event.draft_text
        if event.finished is not None:
            assert event.draft_text == ""
            assert [span.committed for span in event.spans] == [True]
    assert list(texts.values()) == stream.output.text


def test_without_drafts_spans_are_committed(bundled):
    options = {"gen_length": 96, "steps": 12, "drafts": False}
    seen = 0
    for event in dlmcache_cuda.stream(bundled, QUESTIONS[0], **options):
        assert all(span.committed for span in event.spans)
        seen += bool(event.draft_text)  # committed behind a gap
    assert seen


def test_without_a_tokenizer_there_is_no_text():
    for event in dlmcache_cuda.stream(model_of("llada"), PROMPTS[0], gen_length=4):
        assert event.text is None and event.new_text is None
        assert event.draft_text is None and event.spans is None


def test_a_canvas_is_streamed_like_prompts(bundled):
    mask = bundled.mask_token_id
    ids = bundled.tokenizer("#1 by (a) : boat finds zinc")["input_ids"]
    canvas = torch.tensor([*ids[:3], mask, mask, *ids[5:], mask, mask])
    stream = dlmcache_cuda.stream(bundled, canvas=canvas)
    text = ""
    for event in stream:
        assert (event.ids[event.committed] != mask).all()
        text += event.new_text
    assert text == stream.output.text[0] == dlmcache_cuda.decode(bundled, canvas=canvas).text[0]


def test_embedded_prompts_are_streamed_like_ids():
    model = model_of("llada")
    rows = [model.embedding[torch.tensor(prompt)] for prompt in PROMPTS]
    options = {"gen_length": 12, "cache": "dual", "batch_size": 2}
    stream = dlmcache_cuda.stream(model, prompt_embeds=rows, **options)
    steps = {event.sequence: event.step for event in stream}
    expected = dlmcache_cuda.decode(model, PROMPTS, **options)
    assert steps.keys() == {0, 1, 2, 3}
    for mine, other in zip(stream.output.sequences, expected.sequences, strict=True):
        assert mine.ids.tolist() == other.ids.tolist()


# Tokens are bytes: characters of several bytes fall apart.
BYTES = SimpleNamespace(decode_text=lambda ids: bytes(ids.tolist()).decode("utf-8", "replace"))


def test_incomplete_characters_wait_for_their_bytes():
    ids = torch.tensor(list("a€🙂b".encode()))
    shown = [stable_text(BYTES, ids[:n]) for n in range(len(ids) + 1)]
    assert shown == ["", "a", "a", "a", "a€", "a€", "a€", "a€", "a€🙂", "a€🙂b"]


def test_spans_cut_at_characters():
    ids = torch.tensor(list("ab€c".encode()))
    committed = torch.tensor([True, False, True, False, False, True])
    assert spans(BYTES, ids, committed) == [
        TextSpan("a", True),
        TextSpan("b", False),
        TextSpan("€", False),
        TextSpan("c", True),
    ]
    assert spans(BYTES, ids[:0], committed[:0]) == []


def test_a_stream_may_be_left_and_closed():
    model = model_of("llada")
    with dlmcache_cuda.stream(model, PROMPTS, gen_length=12) as stream:
        first = next(stream)
        assert first.sequence == 0 and first.step == 0
        with pytest.raises(RuntimeError, match="no output before its last event; 0 of 4"):
            _ = stream.output
    assert list(stream) == []
    assert list(stream) == []


def test_a_finished_stream_stays_finished():
    stream = dlmcache_cuda.stream(model_of("llada"), PROMPTS[0], gen_length=4)
    events = list(stream)
    assert events[-1].finished is stream.output.sequences[0]
    stream.close()
    assert list(stream) == [] and stream.output.stats.forwards == len(events)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"prompts": None}, TypeError, "stream takes one of prompts, canvas and prompt_embeds"),
        ({"prompts": []}, ValueError, "prompts is empty"),
        ({"gen_length": 0}, ValueError, "gen_length must be"),
        ({"callback": print}, TypeError, r"stream\(\) got an unknown setting 'callback'"),
        ({"gen_len": 8}, TypeError, "unknown setting 'gen_len'; allowed are gen_length"),
        ({"seed": [1, 2]}, ValueError, "seed must hold one integer per prompt"),
        ({"batch_size": 0}, ValueError, "batch_size must be"),
        ({"drafts": "yes"}, TypeError, "drafts must be True or False"),
        ({"model": "llada"}, TypeError, "model must be"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused_by_the_call(arguments, error, message):
    with pytest.raises(error, match=message):
        dlmcache_cuda.stream(**{"model": model_of("llada"), "prompts": [[1]], **arguments})
