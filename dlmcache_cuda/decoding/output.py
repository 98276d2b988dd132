"""What decode() returns."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dlmcache_cuda.decoding.trace import SequenceTrace


@dataclass(frozen=True, slots=True)
class DecodedSequence:
    """One decoded sequence; ``P`` prompt tokens, ``G`` positions of the generation region.

    Attributes:
        prompt_ids: ``[P]`` int64, CPU. Of a canvas: what stands before its first mask. -1 for rows
            that were given as embeddings.
        given: ``[G]`` bool, CPU: positions of the region whose text was given with the canvas.
        ids: ``[G]`` int64, CPU. Masks behind the first end token are replaced by the pad token.
        visible_ids: ids before the first end token; end tokens before given text do not count.
        text: the visible ids as text; None when the checkpoint has no tokenizer.
        commit_step: ``[G]`` int64: at which of the sequence's own forwards, counted from 0, each
            position was committed; -1 where it never was.
        confidence: ``[G]`` float32: what the commit rule held of each token when it committed it,
            in [0, 1]: its probability as the sampling sees it, with ``alg`` behind temperature and
            filters, without the ids that ``suppress_token_ids``, ``logits_eos_inf`` and
            ``confidence_eos_eot_inf`` leave out. NaN where never committed.
        log_prob: ``[G]`` float32: natural logarithm of each token's probability when it was
            committed, by the softmax of the model's logits (with ``cfg_scale`` the guided ones)
            over the whole vocabulary: no temperature, no filters, nothing left out. NaN where never
            committed.
        forwards: number of forwards of this sequence (NFE).
        rows_computed: rows that went into a layer and were computed there, summed over forwards and
            layers. That the last layer finishes only rows that predict is not counted.
        rows_vanilla: the same for vanilla decoding with as many forwards.
        refreshes: forwards that recomputed cached rows by schedule.
        stop_reason: ``end_of_text`` (an end token with no mask before it), ``length`` (every step
            was made), or ``stalled`` (only mask tokens were predicted, so nothing was committed).
        trace: one :class:`StepTrace` per forward, with what is needed to read them; None unless
            ``decode(trace=True)``.
    """

    prompt_ids: Tensor
    given: Tensor
    ids: Tensor
    visible_ids: Tensor
    text: str | None
    commit_step: Tensor
    confidence: Tensor
    log_prob: Tensor
    forwards: int
    rows_computed: int
    rows_vanilla: int
    refreshes: int
    stop_reason: str
    trace: SequenceTrace | None = None

    @property
    def canvas_ids(self) -> Tensor:
        """``[P + G]``: prompt and region."""
        return torch.cat((self.prompt_ids, self.ids))

    @property
    def num_visible(self) -> int:
        """Decoded tokens among ``visible_ids``."""
        return self.visible_ids.numel() - int(self.given.sum())

    def to_dict(self) -> dict[str, Any]:
        """The same as plain Python values, for JSON; NaN and infinities become None."""
        return {
            "prompt_ids": self.prompt_ids.tolist(),
            "given": self.given.tolist(),
            "ids": self.ids.tolist(),
            "visible_ids": self.visible_ids.tolist(),
            "text": self.text,
            "commit_step": self.commit_step.tolist(),
            "confidence": _numbers(self.confidence),
            "log_prob": _numbers(self.log_prob),
            "forwards": self.forwards,
            "rows_computed": self.rows_computed,
            "rows_vanilla": self.rows_vanilla,
            "refreshes": self.refreshes,
            "stop_reason": self.stop_reason,
            "trace": None if self.trace is None else self.trace.to_dict(),
        }


def _numbers(values: Tensor) -> list[float | None]:
    return [value if math.isfinite(value) else None for value in values.tolist()]


@dataclass(frozen=True, slots=True)
class DecodeStats:
    """Statistics of one decode() call.

    Attributes:
        forwards: calls of the network; one call serves all sequences in flight.
        sequence_forwards: forwards summed over sequences.
        rows_computed: rows that went into a layer and were computed there, summed over forwards and
            layers. That the last layer finishes only rows that predict is not counted.
        rows_vanilla: what vanilla decoding would have computed in as many forwards.
        refreshes: forwards of a sequence that recomputed cached rows by schedule, summed over
            sequences.
        visible_tokens: decoded tokens before the first end token, summed over sequences.
        seconds: wall time by phase: ``plan``, ``rows``, ``network``, ``head``, ``commit``,
            ``readback`` and ``total``. On a GPU work is queued, so what it takes shows up in
            ``readback``.
    """

    forwards: int
    sequence_forwards: int
    rows_computed: int
    rows_vanilla: int
    refreshes: int
    visible_tokens: int
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def tokens_per_second(self) -> float:
        """Visible tokens per second of wall time."""
        return self.visible_tokens / self.seconds["total"] if self.seconds.get("total") else 0.0

    @property
    def tokens_per_forward(self) -> float:
        """Visible tokens per forward of a sequence, averaged over sequences."""
        return self.visible_tokens / self.sequence_forwards if self.sequence_forwards else 0.0

    def to_dict(self) -> dict[str, Any]:
        return {
            "forwards": self.forwards,
            "sequence_forwards": self.sequence_forwards,
            "rows_computed": self.rows_computed,
            "rows_vanilla": self.rows_vanilla,
            "refreshes": self.refreshes,
            "visible_tokens": self.visible_tokens,
            "tokens_per_second": self.tokens_per_second,
            "tokens_per_forward": self.tokens_per_forward,
            "seconds": dict(self.seconds),
        }


@dataclass(frozen=True, slots=True)
class DecodeOutput:
    """Everything that a decode() call produced, sequences in the order of the prompts."""

    sequences: list[DecodedSequence]
    stats: DecodeStats

    @property
    def text(self) -> list[str | None]:
        """Visible text of every sequence."""
        return [sequence.text for sequence in self.sequences]

    @property
    def ids(self) -> list[Tensor]:
        """Generation region of every sequence, ``[G]`` each."""
        return [sequence.ids for sequence in self.sequences]

    def to_dict(self) -> dict[str, Any]:
        return {
            "sequences": [sequence.to_dict() for sequence in self.sequences],
            "stats": self.stats.to_dict(),
        }
