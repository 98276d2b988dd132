"""What a traced sequence remembers of each of its steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from dlmcache_cuda.policies import StepPlan

if TYPE_CHECKING:
    from dlmcache_cuda.decoding.step_outcome import StepOutcome


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


def step_traces(
    outcome: StepOutcome, capacity: int, n_layers: int, plan: StepPlan
) -> list[StepTrace]:
    """What the slots remember of a step whose stack recorded its rows."""
    recorded = []
    for output in outcome.outputs:
        layers = [
            (rows.row_index.cpu(), rows.cu_rows.tolist()) for rows in output.result.layer_rows
        ]
        # A step that goes on begins above the layers that stand.
        recorded.append([None] * (n_layers - len(layers)) + layers)
    # Only steps that were not repeated measure similarities.
    similarities = outcome.outputs[0].result.similarities
    if similarities is not None:
        similarities = similarities.tolist()
    traces = []
    for place, slot_plan in enumerate(plan.slots):
        boundary = outcome.boundaries[place]
        bound = n_layers if boundary < 0 else boundary
        rows, measured = [], []
        for layer in range(n_layers):
            resumed = layer >= bound and outcome.resumed is not None
            made_by = outcome.resumed if resumed else outcome.made_by[place]
            index, bounds = recorded[made_by][layer]
            rows.append(index[bounds[place] : bounds[place + 1]] - place * capacity)
            value = None if similarities is None or layer >= bound else similarities[layer][place]
            measured.append(None if value is None or value != value else value)
        traces.append(
            StepTrace(
                tuple(rows), slot_plan.refresh, None if boundary < 0 else boundary, tuple(measured)
            )
        )
    return traces
