"""The prompts of a workload, and the answers where there are any."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dlmcache_cuda.assets.questions import SPLITS, Question, check_answer, make_questions
from dlmcache_cuda.benchmark.row import Workload
from dlmcache_cuda.decoding.prompts import tokenize_prompts

QUESTIONS, RANDOM = "questions", "random"


@dataclass(frozen=True, slots=True)
class Prompts:
    """Token ids of every prompt, ``[P]`` int64 on the CPU, and the questions behind them."""

    ids: list[Tensor]
    questions: list[Question] | None = None

    def right(self, texts: list[str | None]) -> int | None:
        """How many answers are right; None without questions."""
        if self.questions is None:
            return None
        return sum(map(check_answer, self.questions, texts))


def is_file(prompts: str) -> bool:
    """Whether ``Workload.prompts`` names a file."""
    return prompts.partition(":")[0] not in (QUESTIONS, RANDOM)


def make_prompts(model: Any, workload: Workload) -> Prompts:
    """The prompts of a workload for a model; the same arguments always give the same ones.

    Raises:
        ValueError: no such split or file, or the model cannot take them.
    """
    kind, _, split = workload.prompts.partition(":")
    if kind == QUESTIONS:
        asked = make_questions(workload.sequences, workload.seed, split or next(iter(SPLITS)))
        chats = [[{"role": "user", "content": question.prompt}] for question in asked]
        return Prompts(tokenize_prompts(model, chats, workload.gen_length), asked)
    if kind == RANDOM:
        return Prompts(tokenize_prompts(model, _random(model, workload), workload.gen_length))
    texts = [
        line for line in Path(workload.prompts).read_text("utf-8").splitlines() if line.strip()
    ]
    if not texts:
        raise ValueError(f"prompts: {workload.prompts} has no line with text")
    chosen = [texts[number % len(texts)] for number in range(workload.sequences)]
    if getattr(model.tokenizer, "chat_template", None):
        chats = [[{"role": "user", "content": text}] for text in chosen]
        return Prompts(tokenize_prompts(model, chats, workload.gen_length))
    return Prompts(tokenize_prompts(model, chosen, workload.gen_length))


def _random(model: Any, workload: Workload) -> list[Tensor]:
    generator = torch.Generator().manual_seed(workload.seed)
    special = {model.mask_token_id, model.pad_token_id, *model.end_token_ids}
    allowed = [i for i in range(model.config.vocab_size) if i not in special]
    allowed_ids = torch.tensor(allowed)
    longest, count = workload.prompt_length, workload.sequences
    prompts = []
    for number in range(count):
        length = longest
        if workload.ragged and count > 1:
            length -= (longest - max(longest // 2, 1)) * number // (count - 1)
        chosen = torch.randint(len(allowed), (length,), generator=generator)
        prompts.append(allowed_ids[chosen])
    return prompts
