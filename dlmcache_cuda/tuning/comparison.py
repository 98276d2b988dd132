"""Two decoded sequences of the same prompt, side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from dlmcache_cuda.decoding import DecodedSequence


@dataclass(frozen=True, slots=True)
class TokenDifference:
    """How the visible tokens of two responses differ.

    Attributes:
        tokens: positions compared: those before the first end token of the longer response.
        differing: of these, positions at which the two have different tokens.
        first_position: the first such position of the generation region; None if there is none.
    """

    tokens: int
    differing: int
    first_position: int | None


def compare_tokens(ids: Tensor, others: Tensor, end_token_ids: Sequence[int]) -> TokenDifference:
    """Compares two generation regions, ``[G]`` int64 each, up to where both have ended."""
    length = max(_visible_length(ids, end_token_ids), _visible_length(others, end_token_ids))
    differs = (ids[:length] != others[:length]).nonzero().flatten()
    return TokenDifference(length, len(differs), int(differs[0]) if len(differs) else None)


def _visible_length(ids: Tensor, end_token_ids: Sequence[int]) -> int:
    """Positions before the first end token."""
    ends = torch.isin(ids, torch.tensor(list(end_token_ids), dtype=ids.dtype)).nonzero()
    return int(ends[0]) if len(ends) else ids.numel()


@dataclass(frozen=True, slots=True)
class SequenceComparison:
    """One prompt decoded without and with a cache.

    Attributes:
        prompt: its index.
        tokens: positions compared: up to the first end token of the longer response.
        equal_tokens: of these, positions with the same token in both.
        first_differing_position: the first with different ones, counted from the start of the
            generation region; None: all equal.
        first_differing_step: the first step of the cached run, from 0, that committed a token that
            is not vanilla's there; None: all equal.
        first_reordered_step: the first step that did not commit the same tokens at the same
            positions as vanilla's; None: the runs are the same step by step.
        answers_equal: whether both give the same answer.
        forwards, forwards_vanilla: steps of each run.
        rows, rows_vanilla: rows that each run computed, summed over steps and layers.
        text, text_vanilla: visible texts; None without a tokenizer.
        score, score_vanilla: what the user's ``score`` gave them; None without one.
    """

    prompt: int
    tokens: int
    equal_tokens: int
    first_differing_position: int | None
    first_differing_step: int | None
    first_reordered_step: int | None
    answers_equal: bool
    forwards: int
    forwards_vanilla: int
    rows: int
    rows_vanilla: int
    text: str | None
    text_vanilla: str | None
    score: float | None = None
    score_vanilla: float | None = None

    @property
    def agreement(self) -> float:
        """Share of equal tokens; 1 where there was nothing to compare."""
        return self.equal_tokens / self.tokens if self.tokens else 1.0

    def to_dict(self) -> dict[str, Any]:
        return asdict(self) | {"agreement": self.agreement}


def first_differing_step(
    vanilla: DecodedSequence, cached: DecodedSequence, tokens: int
) -> int | None:
    """The first step of ``cached`` that committed another token among the first ``tokens``."""
    differs = cached.ids[:tokens] != vanilla.ids[:tokens]
    steps = cached.commit_step[:tokens][differs]
    # Where one has only padding behind an early end, nothing was committed that differs.
    steps = steps[steps >= 0]
    if len(steps):
        return int(steps.min())
    return cached.forwards if bool(differs.any()) else None


def first_reordered_step(
    vanilla: DecodedSequence, cached: DecodedSequence, tokens: int
) -> int | None:
    """The first step at which the two committed different positions or tokens among these."""
    same = (cached.ids[:tokens] == vanilla.ids[:tokens]) & (
        cached.commit_step[:tokens] == vanilla.commit_step[:tokens]
    )
    if bool(same.all()):
        return None
    # A position counts from the step at which the first of the two committed it.
    steps = torch.stack((cached.commit_step[:tokens], vanilla.commit_step[:tokens]))[:, ~same]
    steps = steps.masked_fill(steps < 0, max(cached.forwards, vanilla.forwards))
    return int(steps.min())
