"""From questions to tensors: canvases, masks, and where attention should look."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from task import GEN_LENGTH, Question, questions
from tokenizer import EOS_ID, MASK_ID, encode_words, prompt_ids
from torch import Tensor

LINE = questions.LINE_WORDS
LABEL, KEY, VERB, VALUE, REACHED = 2, 4, 5, 6, 9  # content columns of a response line
CONTENT = (LABEL, KEY, VERB, VALUE, REACHED)
FACT_WORDS, FACTS_START = 5, 2  # `(label) key verb value .`, after `<|startoftext|> Q:`
FACT_OFFSET = {LABEL: 0, KEY: 1, VERB: 2, VALUE: 3}
START_FROM_END = 5  # the start entity is the fifth word before the response


@dataclass(frozen=True, slots=True)
class Lookups:
    """Content positions of the response and the lookups that explain them.

    ``row`` is the sequence and ``position`` the place on the canvas, ``sources`` up to three
    places that hold the entity to look up (best first, -1 for none), ``copied`` the place that
    holds the word to write, ``backward`` whether the question walks backwards. The final answer
    is copied from the last line and looks nothing up.
    """

    row: Tensor
    position: Tensor
    sources: Tensor
    copied: Tensor
    backward: Tensor
    final_row: Tensor
    final_position: Tensor
    final_sources: Tensor


@dataclass(frozen=True, slots=True)
class Batch:
    """Canvases of one prompt length. ``[batch, length]`` ids, ``[batch, gen_length]`` content."""

    ids: Tensor
    prompt_length: int
    facts: int
    hops: list[int]
    backward: list[bool]
    content: Tensor
    lookups: Lookups

    @property
    def gen_length(self) -> int:
        """Length of the response part of the canvas."""
        return self.ids.shape[1] - self.prompt_length


def build_batch(batch: list[Question], gen_length: int = GEN_LENGTH) -> Batch:
    """Encode questions with the same number of facts."""
    prompts = [prompt_ids(question.prompt) for question in batch]
    length = len(prompts[0])
    canvases, content = [], torch.zeros(len(batch), gen_length, dtype=torch.bool)
    records, finals = [], []
    for row, (question, prompt) in enumerate(zip(batch, prompts, strict=True)):
        response = encode_words(question.answer)
        canvases.append(prompt + response + [EOS_ID] * (gen_length - len(response)))
        fact_at = {
            prompt[place]: place
            for place in range(FACTS_START, FACTS_START + FACT_WORDS * question.facts, FACT_WORDS)
        }
        records += _lookups(row, response, question, length, fact_at)
        last = length + LINE * (question.hops - 1)
        arrived = VALUE if question.family == "steps" else KEY
        finals.append((row, last + LINE + 1, last + REACHED, last + arrived))
        columns = [line * LINE + column for line in range(question.hops) for column in CONTENT]
        content[row, [*columns, LINE * question.hops + 1]] = True
    table, final = torch.tensor(records), torch.tensor(finals)
    lookups = Lookups(
        table[:, 0], table[:, 1], table[:, 2:5], table[:, 5], table[:, 6].bool(),
        final[:, 0], final[:, 1], final[:, 2:4],
    )  # fmt: skip
    return Batch(
        ids=torch.tensor(canvases),
        prompt_length=length,
        facts=batch[0].facts,
        hops=[question.hops for question in batch],
        backward=[question.family == "back" for question in batch],
        content=content,
        lookups=lookups,
    )


def _lookups(
    row: int, response: list[int], question: Question, length: int, fact_at: dict[int, int]
) -> list[tuple[int, ...]]:
    """One record per content word of the lines, see `Lookups`."""
    backward = question.family == "back"
    known, arrived = (VALUE, KEY) if backward else (KEY, VALUE)
    records = []
    for line in range(question.hops):
        base = LINE * line
        before = length + base - LINE
        fact = fact_at[response[base + LABEL]]
        if line == 0:
            earlier = (length - START_FROM_END, -1)
        else:
            earlier = (before + REACHED, before + arrived)
        for column in CONTENT:
            offset = FACT_OFFSET[arrived if column == REACHED else column]
            records.append(
                (row, length + base + column, length + base + known, *earlier, fact + offset,
                 int(backward))
            )  # fmt: skip
    return records


def random_masks(count: int, gen_length: int, generator: torch.Generator) -> Tensor:
    """LLaDA's masks: a ratio per sequence, spread evenly over (0, 1], then random places."""
    ratios = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    masked = (ratios * gen_length).ceil().clamp(min=1)
    order = torch.rand(count, gen_length, generator=generator).argsort(-1).argsort(-1)
    return order < masked[:, None]


def cut_masks(batch: Batch, rows: range, rng: random.Random) -> tuple[Tensor, Tensor, Tensor]:
    """Masks that hide a content word and all content after it, so nothing later gives it away.

    Returns the masks ``[len(rows), gen_length]``, the part up to the end of the cut line, and the
    place of the cut. In half of the sequences the frame words after the cut are hidden too.
    """
    places = torch.arange(batch.gen_length)
    masks, near, cuts = [], [], []
    for row in rows:
        arrived = KEY if batch.backward[row] else VALUE
        line = rng.randrange(batch.hops[row])
        column = rng.choice((LABEL, LABEL, KEY, VERB, VALUE, arrived, arrived, REACHED))
        cut = LINE * line + column
        mask = places >= cut
        if rng.random() < 0.5:
            mask = mask & batch.content[row]
        masks.append(mask)
        near.append(mask & (places < LINE * (line + 1) + 2))
        cuts.append(cut)
    return torch.stack(masks), torch.stack(near), torch.tensor(cuts)


def apply_masks(batch: Batch, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Canvas with masked responses, and the mask over the whole canvas; prompts stay visible."""
    whole = torch.zeros_like(batch.ids, dtype=torch.bool)
    whole[:, batch.prompt_length :] = masks
    return batch.ids.masked_fill(whole, MASK_ID), whole
