"""A few steps of training: they run, they resume where they stopped, they export as LLaDA."""

from __future__ import annotations

import json
import os
import random
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch


def settings_for(train_tiny: SimpleNamespace, out: Path, resume: bool = False):
    out.mkdir(parents=True, exist_ok=True)
    return train_tiny.worker.Settings(
        out=out, steps=6, seconds=0.0, seed=3, batch_size=4, workers=1, resume=resume
    )


def losses_of(train_tiny: SimpleNamespace, settings, stop_after: int | None = None) -> list[float]:
    """Train in this process, optionally asking to stop after some steps."""
    model, step = train_tiny.train.start_state(settings)
    count = train_tiny.train.LocalCount(step)
    worker = train_tiny.worker.Worker(settings, 0, model, count)
    losses = []
    for loss in worker.train():
        losses.append(loss.total.item())
        if len(losses) == stop_after:
            count.stop = True
    return losses


def test_train_resumed_run_equals_uninterrupted_run(train_tiny, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        whole = losses_of(train_tiny, settings_for(train_tiny, tmp_path / "whole"))
        first = losses_of(train_tiny, settings_for(train_tiny, tmp_path / "parts"), stop_after=3)
        resumed = settings_for(train_tiny, tmp_path / "parts", resume=True)
        assert train_tiny.train.start_state(resumed)[1] == 3
        second = losses_of(train_tiny, resumed)
    finally:
        torch.set_num_threads(threads)
    assert len(whole) == 6
    assert first + second == whole
    assert not list(tmp_path.rglob("*.partial"))


def test_train_signal_asks_to_stop(train_tiny) -> None:
    before = {number: signal.getsignal(number) for number in train_tiny.train.SIGNALS}
    count = train_tiny.train.LocalCount()
    try:
        train_tiny.train.stop_on_signal(count)
        os.kill(os.getpid(), signal.SIGTERM)
        assert count.stopped()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_train_loss_falls_on_one_batch(train_tiny) -> None:
    model = train_tiny.worker.new_model(0)
    rng = random.Random(0)
    batch = train_tiny.batches.build_batch(
        train_tiny.task.training_questions(rng, 4, (1, 2), 4), gen_length=26
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    losses = []
    for _ in range(12):
        generator = torch.Generator().manual_seed(0)
        loss = train_tiny.losses.batch_loss(model, batch, random.Random(0), generator, 1.0)
        optimizer.zero_grad()
        loss.total.backward()
        optimizer.step()
        losses.append(loss.total.item())
    assert losses[-1] < 0.8 * losses[0]


def test_batch_lookups_point_at_the_words_they_name(train_tiny) -> None:
    for facts, gen_length in ((8, 96), (20, 96)):
        batch = train_tiny.batches.build_batch(
            train_tiny.task.training_questions(random.Random(5), 6, (2, 8), facts), gen_length
        )
        lookups = batch.lookups
        word = batch.ids[lookups.row, lookups.position]
        assert torch.equal(word, batch.ids[lookups.row, lookups.copied])
        assert (lookups.copied < batch.prompt_length).all()
        sources = batch.ids[lookups.row[:, None], lookups.sources.clamp(min=0)]
        known = lookups.sources >= 0
        assert torch.equal(sources[known], sources[:, :1].expand_as(sources)[known])
        final = batch.ids[lookups.final_row, lookups.final_position]
        assert torch.equal(final, batch.ids[lookups.final_row, lookups.final_sources[:, 0]])
        assert torch.equal(final, batch.ids[lookups.final_row, lookups.final_sources[:, 1]])


def test_batch_prompt_is_never_masked(train_tiny) -> None:
    rng = random.Random(1)
    batch = train_tiny.batches.build_batch(
        train_tiny.task.training_questions(rng, 8, (2, 3), 8), gen_length=96
    )
    masks = train_tiny.batches.random_masks(8, 96, torch.Generator().manual_seed(2))
    assert masks.any(-1).all()
    canvas, hidden = train_tiny.batches.apply_masks(batch, masks)
    assert not hidden[:, : batch.prompt_length].any()
    assert torch.equal(canvas == train_tiny.tokenizer.MASK_ID, hidden)


def test_export_writes_llada_layout(train_tiny, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    from safetensors.torch import load_file

    settings = settings_for(train_tiny, tmp_path / "run")
    losses_of(train_tiny, settings, stop_after=1)
    out = tmp_path / "checkpoint"
    train_tiny.export.export(settings.out, out, torch.float16)
    config = json.loads((out / "config.json").read_text())
    assert config["model_type"] == "llada" and config["architectures"] == ["LLaDAModelLM"]
    assert config["vocab_size"] == config["embedding_size"] == train_tiny.tokenizer.VOCAB_SIZE
    assert config["torch_dtype"] == "float16"

    weights = load_file(out / "model.safetensors")
    width, hidden, vocab = config["d_model"], config["mlp_hidden_size"], config["vocab_size"]
    prefix = "model.transformer."
    shapes = {
        "wte.weight": (vocab, width),
        "ln_f.weight": (width,),
        "ff_out.weight": (vocab, width),
    }
    for index in range(config["n_layers"]):
        block = f"blocks.{index}."
        for name in ("q_proj", "k_proj", "v_proj", "attn_out"):
            shapes[f"{block}{name}.weight"] = (width, width)
        for name in ("ff_proj", "up_proj"):
            shapes[f"{block}{name}.weight"] = (hidden, width)
        shapes[f"{block}ff_out.weight"] = (width, hidden)
        shapes[f"{block}attn_norm.weight"] = shapes[f"{block}ff_norm.weight"] = (width,)
    found = {name.removeprefix(prefix): tuple(value.shape) for name, value in weights.items()}
    assert found == shapes
    assert all(name.startswith(prefix) for name in weights)
    assert all(value.dtype == torch.float16 for value in weights.values())

    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    (question,) = train_tiny.task.make_questions(1, seed=0)
    for text in (question.prompt, question.answer):
        ids = tokenizer(text)["input_ids"]
        assert ids == train_tiny.tokenizer.encode_words(text)
        assert tokenizer.decode(ids) == text
    assert tokenizer("sack elephant")["input_ids"][1] == tokenizer.unk_token_id
    chat = [{"role": "user", "content": question.prompt}]
    templated = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    ids = tokenizer(templated)["input_ids"]
    assert ids == train_tiny.tokenizer.prompt_ids(question.prompt)
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == config["eos_token_id"]
    assert tokenizer.mask_token_id == config["mask_token_id"]


def test_evaluate_decodes_every_position_without_mask_token(train_tiny) -> None:
    model = train_tiny.worker.new_model(1).eval()
    items = train_tiny.task.make_questions(2, seed=0, split="hard")[:1]
    prompts = torch.tensor([train_tiny.tokenizer.prompt_ids(q.prompt) for q in items])
    for threshold, fewest in ((None, 8), (0.0, 1)):
        responses, steps = train_tiny.evaluate.decode(model, prompts, 8, threshold)
        assert responses.shape == (1, 8)
        assert (responses != train_tiny.tokenizer.MASK_ID).all()
        assert steps.tolist() == [fewest]
