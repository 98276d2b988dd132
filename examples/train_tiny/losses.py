"""The training loss: masked diffusion, and attention supervision that makes lookups learnable.

Masked diffusion. Half of a batch has random masks over the response (end-of-text padding is part of
it, the prompt is never masked). The cross-entropy is averaged over the masked words of a sequence,
which is LLaDA's ``1 / (t * length)`` weight with an exact number of masks. The other half has cut
masks, see `batches.cut_masks`.

Attention supervision. Two layers learn to look where a lookup has to look: ``GATHER_LAYER``
collects the entity that a fact or a response line is about, ``MATCH_LAYER`` finds the word to
copy. Two heads compare by the key of a fact (family ``steps``), two by its value (family
``back``). It is used in training only, fades out before the end, and leaves the architecture as
it is.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from batches import (
    FACT_OFFSET,
    FACT_WORDS,
    FACTS_START,
    KEY,
    VALUE,
    Batch,
    apply_masks,
    cut_masks,
    random_masks,
)
from model import TinyLLaDA
from torch import Tensor

GATHER_LAYER, MATCH_LAYER = 1, 3
KEY_HEADS, VALUE_HEADS = (0, 1), (2, 3)
FAR_WEIGHT = 0.2  # of words after the cut line, which take several lookups in one forward
ATTENTION_WEIGHT = 0.5


@dataclass(frozen=True, slots=True)
class StepLoss:
    """Loss of one batch and the figures shown while training."""

    total: Tensor
    random_masks: float
    cut_masks: float
    first_accuracy: float
    gather: float
    match: float


def batch_loss(
    model: TinyLLaDA,
    batch: Batch,
    rng: random.Random,
    generator: torch.Generator,
    attention: float,
) -> StepLoss:
    """Loss of one batch; ``attention`` in [0, 1] scales the attention supervision."""
    count = len(batch.hops)
    half = count // 2
    spread = random_masks(half, batch.gen_length, generator)
    cut, near, cuts = cut_masks(batch, range(half, count), rng)
    masks = torch.cat((spread, cut))
    canvas, hidden = apply_masks(batch, masks)
    layers = (GATHER_LAYER, MATCH_LAYER) if attention > 0 else ()
    logits, scores = model(canvas, first_row=batch.prompt_length, score_layers=layers)
    targets = batch.ids[:, batch.prompt_length :]
    entropy = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none")

    spread_loss = masked_mean(entropy[:half], spread)
    cut_loss = masked_mean(entropy[half:], near)
    cut_loss = cut_loss + FAR_WEIGHT * masked_mean(entropy[half:], cut & ~near)
    total = torch.cat((spread_loss, cut_loss)).mean()
    rows = torch.arange(half, count)
    first = logits[rows, cuts].argmax(-1) == targets[rows, cuts]
    gather = match = 0.0
    if attention > 0:
        gather_loss, match_loss = attention_losses(scores, batch, hidden)
        total = total + ATTENTION_WEIGHT * attention * (gather_loss + match_loss)
        gather, match = gather_loss.item(), match_loss.item()
    return StepLoss(
        total=total,
        random_masks=spread_loss.mean().item(),
        cut_masks=cut_loss.mean().item(),
        first_accuracy=first.float().mean().item(),
        gather=gather,
        match=match,
    )


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of each row over its masked places; 0 where there is none."""
    return (values * mask).sum(-1) / mask.sum(-1).clamp(min=1)


def attention_losses(
    scores: dict[int, Tensor], batch: Batch, hidden: Tensor
) -> tuple[Tensor, Tensor]:
    """Mean of -log attention weight on the wanted place, for the gather and the match layer."""
    lookups = batch.lookups
    source = first_visible(lookups.row, lookups.sources, hidden)
    known = source >= 0  # several lookups in one forward are not supervised
    row, position = lookups.row[known], lookups.position[known]
    source, copied, backward = source[known], lookups.copied[known], lookups.backward[known]
    final_source = first_visible(lookups.final_row, lookups.final_sources, hidden)
    final = final_source >= 0

    gather = SurprisalTable(scores[GATHER_LAYER])
    match = SurprisalTable(scores[MATCH_LAYER])
    facts = torch.arange(batch.facts).repeat_interleave(FACT_WORDS) * FACT_WORDS + FACTS_START
    words = torch.arange(batch.facts * FACT_WORDS) + FACTS_START
    every = torch.arange(len(batch.hops)).repeat_interleave(len(words))
    words, facts = words.repeat(len(batch.hops)), facts.repeat(len(batch.hops))
    prompt_terms = torch.cat(
        (
            gather.of(KEY_HEADS, every, words, facts + FACT_OFFSET[KEY]),
            gather.of(VALUE_HEADS, every, words, facts + FACT_OFFSET[VALUE]),
        )
    )
    line_terms, match_terms = [], []
    for heads, chosen in ((KEY_HEADS, ~backward), (VALUE_HEADS, backward)):
        place = row[chosen], position[chosen]
        line_terms.append(gather.of(heads, *place, source[chosen]))
        match_terms.append(match.of(heads, *place, copied[chosen]))
    every_head = KEY_HEADS + VALUE_HEADS
    place = lookups.final_row[final], lookups.final_position[final]
    match_terms.append(match.of(every_head, *place, final_source[final]))
    gather_loss = 0.5 * (prompt_terms.mean() + safe_mean(torch.cat(line_terms)))
    return gather_loss, safe_mean(torch.cat(match_terms))


class SurprisalTable:
    """-log attention weights of one layer, computed only where asked."""

    def __init__(self, scores: Tensor) -> None:
        self.scores = scores
        self.log_total = scores.logsumexp(-1)

    def of(self, heads: tuple[int, ...], row: Tensor, query: Tensor, key: Tensor) -> Tensor:
        """Flat terms for every head of ``heads`` and every (row, query, key) triple."""
        head = torch.tensor(heads)[:, None]
        return (self.log_total[row, head, query] - self.scores[row, head, query, key]).flatten()


def first_visible(row: Tensor, places: Tensor, hidden: Tensor) -> Tensor:
    """First of the listed places that is not hidden, or -1."""
    visible = (places >= 0) & ~hidden[row[:, None], places.clamp(min=0)]
    index = visible.int().argmax(-1, keepdim=True)
    chosen = places.gather(1, index)[:, 0]
    return torch.where(visible.any(-1), chosen, -1)


def safe_mean(values: Tensor) -> Tensor:
    """Mean, or 0 for no values."""
    return values.sum() / max(values.numel(), 1)
