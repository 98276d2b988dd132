"""decode(streamer=...): the calls that transformers' generation loops make."""

from __future__ import annotations

import pytest
import torch
from transformers import TextIteratorStreamer
from transformers.generation.streamers import TextDiffusionStreamer

import dlmcache_cuda
from dlmcache_cuda.assets.questions import make_questions

QUESTION = [{"role": "user", "content": make_questions(1, seed=5)[0].prompt}]


@pytest.fixture(scope="module")
def model():
    return dlmcache_cuda.load(device="cpu")


class Recorder:
    """Keeps its calls; put_draft can be taken away."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, torch.Tensor | None]] = []

    def put(self, value: torch.Tensor) -> None:
        self.calls.append(("put", value))

    def end(self) -> None:
        self.calls.append(("end", None))


class DraftRecorder(Recorder):
    def put_draft(self, value: torch.Tensor) -> None:
        self.calls.append(("draft", value))


def record(model, streamer, **options):
    out = dlmcache_cuda.decode(model, QUESTION, gen_length=96, streamer=streamer, **options)
    for name, value in streamer.calls:
        assert name == "end" or (value.dim() == 2 and len(value) == 1)
        assert name == "end" or (value.dtype == torch.int64 and value.device.type == "cpu")
    return out.sequences[0], streamer.calls


def test_prompt_drafts_blocks_and_end_come_in_this_order(model):
    sequence, calls = record(model, DraftRecorder(), block_length=24, steps=24)
    names = [name for name, _ in calls]
    assert names[0] == "put" and calls[0][1][0].tolist() == sequence.prompt_ids.tolist()
    assert names[-1] == "end" and names.count("end") == 1
    assert names.count("draft") == sequence.forwards
    # Six steps per block, then the block; the last one may end early.
    assert names[1:8] == ["draft"] * 6 + ["put"]
    put = torch.cat([value[0] for name, value in calls[1:] if name == "put"])
    text_end = int((sequence.ids == model.end_token_ids[0]).int().argmax())
    assert put.tolist() == sequence.ids[: (text_end // 24 + 1) * 24].tolist()
    assert all(value.shape == (1, 24) for name, value in calls[1:-1])


def test_the_last_draft_of_a_block_is_the_block(model):
    _, calls = record(model, DraftRecorder(), block_length=24, stop_at_eos=False)
    blocks = [n for n, (name, _) in enumerate(calls) if n and name == "put"]
    assert len(blocks) == 4
    for n in blocks:
        assert calls[n - 1][1].tolist() == calls[n][1].tolist()


def test_a_streamer_without_put_draft_gets_the_blocks(model):
    sequence, calls = record(model, Recorder(), block_length=24, stop_at_eos=False)
    assert [name for name, _ in calls] == ["put"] * 5 + ["end"]
    assert torch.cat([value[0] for _, value in calls[1:-1]]).tolist() == sequence.ids.tolist()


def test_a_callback_is_called_too(model):
    events = []
    sequence, calls = record(model, DraftRecorder(), threshold=0.9, callback=events.append)
    assert len(events) == sequence.forwards == sum(name == "draft" for name, _ in calls)


def test_transformers_diffusion_streamer_prints_drafts_and_text(model, capsys):
    streamer = TextDiffusionStreamer(model.tokenizer, skip_prompt=True, skip_special_tokens=True)
    out = dlmcache_cuda.decode(
        model, QUESTION, gen_length=96, block_length=32, threshold=0.9, streamer=streamer
    )
    shown = capsys.readouterr().out
    assert "\033[33m" in shown
    assert shown.rpartition("\033[J")[2].strip().endswith(out.text[0].split()[-1])
    assert out.text[0] in shown


def test_transformers_iterator_streamer_yields_the_text(model):
    streamer = TextIteratorStreamer(model.tokenizer, skip_prompt=True, skip_special_tokens=True)
    out = dlmcache_cuda.decode(
        model, QUESTION, gen_length=96, block_length=32, threshold=0.9, streamer=streamer
    )
    assert "".join(streamer) == out.text[0]


def test_a_prompt_of_embeddings_is_put_as_no_tokens(model):
    ids = model.tokenizer("(a) boat finds zinc . start boat steps 1 ?")["input_ids"]
    streamer = DraftRecorder()
    embeds = model.embedding[torch.tensor(ids)]
    dlmcache_cuda.decode(model, prompt_embeds=embeds, gen_length=8, steps=4, streamer=streamer)
    assert streamer.calls[0][0] == "put" and streamer.calls[0][1].shape == (1, 0)
    assert [name for name, _ in streamer.calls[1:]][:2] == ["draft", "draft"]


class TakesLogits(DraftRecorder):
    _takes_logits = True


@pytest.mark.parametrize(
    "prompts, streamer, error, message",
    [
        ([[5], [6]], Recorder(), ValueError, "streamer takes one sequence, got 2 of them"),
        ([[5]], print, TypeError, r"streamer must have methods .* has no put\(\)"),
        ([[5]], TakesLogits(), ValueError, "TakesLogits asks for logits"),
    ],
    ids=["two", "print", "logits"],
)
def test_wrong_streamers_are_refused(model, prompts, streamer, error, message):
    with pytest.raises(error, match=message):
        dlmcache_cuda.decode(model, prompts, gen_length=8, streamer=streamer)
    assert not getattr(streamer, "calls", [])
