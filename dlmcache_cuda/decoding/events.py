"""What a callback is told after every step."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class SequenceUpdate:
    """One sequence after a step.

    Attributes:
        sequence: index of the prompt.
        step: the sequence's own step just made, from 0.
        ids: ``[G]`` int64, CPU: the generation region, mask tokens where nothing is committed.
        committed: ``[n]`` int64, CPU: positions in the region committed by this step, ascending.
        rows: rows of this sequence that the step computed, averaged over layers.
        stop_reason: why the sequence ended with this step, or None while it goes on.
        draft: ``[G]`` int64, CPU: what the step predicted at positions that are still masked, mask
            tokens elsewhere; None where nobody asked for it.
    """

    sequence: int
    step: int
    ids: Tensor
    committed: Tensor
    rows: float
    stop_reason: str | None
    draft: Tensor | None = None


@dataclass(frozen=True, slots=True)
class StepEvent:
    """All sequences that took part in one forward.

    Attributes:
        forward: number of the forward in this call, from 0.
        updates: one entry for each sequence in flight.
    """

    forward: int
    updates: tuple[SequenceUpdate, ...]
