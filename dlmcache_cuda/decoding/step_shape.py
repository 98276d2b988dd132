"""The sizes of a step's lists: all that its program depends on besides its decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class StepShape:
    """Two steps of one decoder and one shape differ in numbers on the device only.

    Where sizes are upper bounds, unused entries of the lists are -1.
    """

    entering: int | None
    """Rows that enter the network; None: to be counted on the device."""
    counts: tuple[int | None, ...] | None
    """Of each of its slots; None where they may not be relied on: of a slot, or of all."""
    predicted: int | None
    """Positions that the head predicts; None: to be counted on the device."""
    committable: int | None
    """Of these, positions that may be committed; None: all, or to be counted on the device."""
    listed: int
    """Rows of ``StepView.listed``."""
    window: int
    """Rows of ``StepPlan.window``."""
    budgets: tuple[int | None, ...] | None
    """``LayerBudgets.sizes`` where layers select."""
    marked: bool
    """Marked rows enter in some slots."""
    anywhere: bool
    """In all slots that take part, from ranges that hold all rows that predict."""
    expected: bool
    """``entering`` is what was expected: more rows may be marked."""
    may_lack: bool
    """Marked rows may predict fewer masks than are due."""
    limited: bool
    """Windows limit what is predicted."""
    sliced: bool
    """``SlotPlan.slice_shift`` is set somewhere."""
    tested: bool
    """Layers test drift."""
    cuts: bool
    """Sequences may be ended early."""
    given: bool = False
    """Text is given inside a generation region."""
    resumes: bool = False
    """The step goes on with slots whose boundary was guessed wrong."""

    def rounded(self) -> StepShape:
        """A shape for steps of slightly different sizes, without relying on counts."""
        return replace(
            self,
            entering=rounded_size(self.entering),
            counts=None,
            predicted=rounded_size(self.predicted),
            committable=None if self.committable is None else rounded_size(self.committable),
            listed=rounded_size(self.listed),
            window=rounded_size(self.window),
            budgets=_rounded_all(self.budgets),
        )


def rounded_size(rows: int) -> int:
    """The length that a list of so many rows is given.

    Up to about 200 rows a GPU waits for the weights and computes more rows in the same time, so
    coarse steps cost nothing there and keep the graphs few; further up they are an eighth at most.
    """
    if rows <= 128:
        return max(32, 1 << (rows - 1).bit_length()) if rows else 0
    step = 64
    while rows > 16 * step:
        step *= 2
    return -(-rows // step) * step


def _rounded_all(sizes: Sequence[int | None] | None) -> tuple[int | None, ...] | None:
    if sizes is None:
        return None
    return tuple(None if size is None else rounded_size(size) for size in sizes)
