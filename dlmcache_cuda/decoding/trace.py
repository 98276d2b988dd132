"""What a traced sequence remembers of its decoding: plain data, step by step."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

TRACE_VERSION = 1
"""Of what :meth:`SequenceTrace.to_dict` gives; raised when readers would misread it."""


@dataclass(frozen=True, slots=True)
class SelectionDrift:
    """The drift of the rows that a layer chose from, where it computes the most drifted ones.

    Rows that are computed whatever their drift do not count. None: there was no such row.

    Attributes:
        highest: largest drift of all rows.
        least_computed: smallest drift of a row that was computed: the threshold of this layer at
            this step, which follows from its budget.
        highest_reused: largest drift of a row that came from the cache.
    """

    highest: float | None
    least_computed: float | None
    highest_reused: float | None


@dataclass(frozen=True, slots=True)
class StepTrace:
    """One step of one sequence, of ``L`` layers. Positions count from the start of its canvas.

    Attributes:
        rows: for each layer the positions whose attention and feed-forward were computed, int64 on
            the CPU, ascending.
        refresh: cached rows were recomputed by schedule.
        boundary: the first layer that computed the whole canvas because the layer below it had
            drifted; the number of layers when the last one had; None when none had.
        similarity: for each layer what its drift test measured, to be compared with
            ``SequenceTrace.gamma``; None where nothing was tested.
        reason: why cached rows were recomputed: ``start`` (nothing was cached yet), ``schedule``
            (the method's intervals), ``drift`` (a layer fell below gamma); None where they were
            not.
        entered: positions ``[begin, end)`` from which rows entered the first layer.
        selection: for each layer the drift that it selected rows by; None where it did not.
        candidates: positions that were predicted, int64 on the CPU, ascending.
        predicted: ``[len(candidates)]`` int64: the token predicted at each of them.
        confidence: ``[len(candidates)]`` float32: how probable it was.
        written: positions whose token changed with this step, int64 on the CPU, ascending.
        tokens: ``[len(written)]`` int64: their new tokens.
        importance: ``[N]`` float32: the attention of all rows, rolled out over the layers, that
            flows to each position; None where a method has no use for it. d2Cache chooses rows of
            the next step by it.
    """

    rows: tuple[Tensor, ...]
    refresh: bool
    boundary: int | None
    similarity: tuple[float | None, ...]
    reason: str | None
    entered: tuple[int, int]
    selection: tuple[SelectionDrift | None, ...]
    candidates: Tensor
    predicted: Tensor
    confidence: Tensor
    written: Tensor
    tokens: Tensor
    importance: Tensor | None = None

    def to_dict(self) -> dict[str, Any]:
        """The same as plain Python values, for JSON; rows are ranges ``[begin, end)``."""
        return {
            "rows": [_ranges(rows) for rows in self.rows],
            "refresh": self.refresh,
            "boundary": self.boundary,
            "similarity": [_number(value) for value in self.similarity],
            "reason": self.reason,
            "entered": list(self.entered),
            "selection": [
                None if drift is None else {k: _number(v) for k, v in asdict(drift).items()}
                for drift in self.selection
            ],
            "candidates": self.candidates.tolist(),
            "predicted": self.predicted.tolist(),
            "confidence": [_number(value) for value in self.confidence.tolist()],
            "written": self.written.tolist(),
            "tokens": self.tokens.tolist(),
            "importance": None
            if self.importance is None
            else [_number(value) for value in self.importance.tolist()],
        }


@dataclass(frozen=True, slots=True)
class SequenceTrace(Sequence):
    """All steps of one sequence, and what is needed to read them. Behaves as a list of steps.

    Attributes:
        steps: one :class:`StepTrace` per forward.
        model: name of the model.
        cache: name of the cache method; settings: its settings.
        decoding: ``gen_length``, ``block_length``, and what the sampler did.
        n_layers: layers of the model.
        mask_token_id: what stands at positions that are not decided.
        gamma: similarity below which a layer makes those above it recompute; None: not tested.
        signal: what selected rows by drift: ``proxy``, ``value``, or None.
        budgets: for each layer the rows that it computes where it selects; None: it never does.
        pieces: the text of every token that occurs, by id; empty without a tokenizer.
    """

    steps: tuple[StepTrace, ...]
    model: str
    cache: str
    settings: Mapping[str, Any]
    decoding: Mapping[str, Any]
    n_layers: int
    mask_token_id: int
    gamma: float | None
    signal: str | None
    budgets: tuple[int, ...] | None
    pieces: Mapping[int, str]

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, index):
        return self.steps[index]

    def __iter__(self) -> Iterator[StepTrace]:
        return iter(self.steps)

    def to_dict(self) -> dict[str, Any]:
        """The same as plain Python values, for JSON (``docs/trace.md``)."""
        return {
            "version": TRACE_VERSION,
            "model": self.model,
            "cache": self.cache,
            "settings": {
                name: list(value) if isinstance(value, tuple) else value
                for name, value in self.settings.items()
            },
            "decoding": dict(self.decoding),
            "n_layers": self.n_layers,
            "mask_token_id": self.mask_token_id,
            "gamma": self.gamma,
            "signal": self.signal,
            "budgets": None if self.budgets is None else list(self.budgets),
            "pieces": {str(token): text for token, text in self.pieces.items()},
            "steps": [step.to_dict() for step in self.steps],
        }


def _ranges(positions: Tensor) -> list[list[int]]:
    """Ascending positions as half-open ranges."""
    if not positions.numel():
        return []
    breaks = (positions.diff() != 1).nonzero().flatten() + 1
    first = [0, *breaks.tolist()]
    last = [*(breaks - 1).tolist(), positions.numel() - 1]
    values = positions.tolist()
    return [[values[a], values[b] + 1] for a, b in zip(first, last, strict=True)]


def _number(value: float | None) -> float | None:
    """A float32 in as many digits as it has; None for what JSON has no number for."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.9g}")
