"""What a traced sequence remembers of each of its steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True, slots=True)
class StepTrace:
    """One step of one sequence. Positions count from the start of its canvas.

    Attributes:
        rows: for each layer the positions whose attention and feed-forward were computed, int64 on
            the CPU, ascending.
        refresh: cached rows were recomputed by schedule.
        boundary: the first layer that computed the whole canvas because the layer below it had
            drifted; the number of layers when the last one had; None when none had.
        similarity: for each layer what its drift test measured; None where nothing was tested.
    """

    rows: tuple[Tensor, ...]
    refresh: bool
    boundary: int | None
    similarity: tuple[float | None, ...]

    def to_dict(self) -> dict[str, Any]:
        """The same as plain Python values, for JSON."""
        return {
            "rows": [rows.tolist() for rows in self.rows],
            "refresh": self.refresh,
            "boundary": self.boundary,
            "similarity": list(self.similarity),
        }
