"""Accuracy of a checkpoint on held-out questions, decoded without any cache.

    python evaluate.py --checkpoint CHECKPOINT_FOLDER --out results/accuracy.json

Greedy, low-confidence remasking, the whole response as one block, the mask token barred. Two
samplers: one token per step, and every token whose confidence reaches a threshold.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import torch
from model import ModelConfig, TinyLLaDA
from safetensors.torch import load_file
from task import SPLITS, Question, check, make_questions
from tokenizer import EOS_ID, MASK_ID, decode_ids, encode_words, prompt_ids
from torch import Tensor

PREFIX = "model.transformer."
BATCH_SIZE = 32


def load_model(folder: Path) -> TinyLLaDA:
    """The checkpoint as a training model, computed in float32 whatever the stored type."""
    raw = json.loads((folder / "config.json").read_text())
    names = ModelConfig.__dataclass_fields__
    model = TinyLLaDA(ModelConfig(**{name: raw[name] for name in names}))
    weights = load_file(folder / "model.safetensors")
    model.load_state_dict(
        {name.removeprefix(PREFIX): value.float() for name, value in weights.items()}
    )
    return model.eval()


@torch.inference_mode()
def decode(
    model: TinyLLaDA, prompts: Tensor, gen_length: int, threshold: float | None
) -> tuple[Tensor, Tensor]:
    """Responses ``[batch, gen_length]`` and the number of steps of each sequence.

    Without a threshold every step commits the most confident token. With one it commits all
    tokens that reach it, and always the most confident.
    """
    batch, length = prompts.shape
    responses = torch.full((batch, gen_length), MASK_ID)
    steps = torch.zeros(batch, dtype=torch.long)
    for _ in range(gen_length):
        masked = responses == MASK_ID
        active = masked.any(-1)
        if not active.any():
            break
        logits, _ = model(torch.cat((prompts, responses), dim=1), first_row=length)
        logits[..., MASK_ID] = -torch.inf
        confidence, tokens = logits.softmax(-1).max(-1)
        confidence = confidence.masked_fill(~masked, -torch.inf)
        best = confidence.argmax(-1, keepdim=True)
        commit = torch.zeros_like(masked).scatter(1, best, True)
        if threshold is not None:
            commit |= confidence >= threshold
        commit &= masked
        responses = torch.where(commit, tokens, responses)
        steps += active
    return responses, steps


def batches_of_one_length(items: list[Question]) -> Iterator[list[Question]]:
    """Batches in which all prompts have the same length."""
    groups: dict[int, list[Question]] = defaultdict(list)
    for question in items:
        groups[question.facts].append(question)
    for group in groups.values():
        for start in range(0, len(group), BATCH_SIZE):
            yield group[start : start + BATCH_SIZE]


def evaluate(
    model: TinyLLaDA, items: list[Question], gen_length: int, threshold: float | None
) -> dict[str, object]:
    """Shares of exact responses and right final words, in all and by hops, facts and family."""
    exact_by: dict[str, list[bool]] = defaultdict(list)
    exact, final, taken = [], [], []
    wall, cpu = time.perf_counter(), time.process_time()
    for batch in batches_of_one_length(items):
        prompts = torch.tensor([prompt_ids(question.prompt) for question in batch])
        responses, steps = decode(model, prompts, gen_length, threshold)
        taken += steps.tolist()
        for question, response in zip(batch, responses.tolist(), strict=True):
            answer = encode_words(question.answer)
            whole = response == answer + [EOS_ID] * (gen_length - len(answer))
            _, right = check(question, decode_ids(response))
            exact.append(whole)
            final.append(right)
            for name in ("hops", "facts", "family"):
                exact_by[f"{name} {getattr(question, name)}"].append(whole)
    return {
        "questions": len(items),
        "gen_length": gen_length,
        "exact": sum(exact) / len(exact),
        "final": sum(final) / len(final),
        "mean_steps": sum(taken) / len(taken),
        "exact_by": {
            name: f"{sum(values)}/{len(values)}" for name, values in sorted(exact_by.items())
        },
        "wall_seconds": round(time.perf_counter() - wall, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
    }


def processor() -> str:
    """Name of the processor."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="JSON file for the results")
    parser.add_argument("--splits", nargs="+", default=["heldout", "hard"])
    parser.add_argument("--samplers", nargs="+", default=["threshold", "one"])
    parser.add_argument("--count", type=int, default=500, help="questions per split")
    parser.add_argument("--seed", type=int, default=2024)
    parser.add_argument("--threshold", type=float, default=0.9)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = load_model(options.checkpoint)
    results: dict[str, object] = {}
    for sampler in options.samplers:
        threshold = options.threshold if sampler == "threshold" else None
        name = f"threshold {threshold}" if threshold else "one token per step"
        for split in options.splits:
            items = make_questions(options.count, options.seed, split)
            gen_length = SPLITS[split].gen_length
            result = evaluate(model, items, gen_length, threshold)
            results[f"{split}, {name}"] = result
            print(
                f"{split}, {name}: exact {result['exact']:.1%} final {result['final']:.1%} "
                f"steps {result['mean_steps']:.2f} of {gen_length} ({result['wall_seconds']} s)",
                flush=True,
            )
    report = {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "seed": options.seed,
        "parameters": sum(value.numel() for value in model.parameters()),
        "hardware": f"{processor()}, {os.cpu_count()} cores, {options.threads} threads",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "results": results,
    }
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
