"""What oracles of methods with different rows per layer write down about each step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from .sequence import Canvas, Record, Settings


@dataclass
class StepRows:
    """One step of one sequence. ``margin``: how far its closest decision was from another one."""

    layer_rows: list[frozenset[int]] = field(default_factory=list)
    refresh: bool = False
    boundary: int | None = None  # first layer with all rows after a failed test
    similarity: list[float | None] = field(default_factory=list)  # None: not tested
    tracked: list[frozenset[int]] = field(default_factory=list)
    margin: float = math.inf

    def add_layer(
        self, rows: Sequence[int], similarity: float | None = None, tracked: Sequence[int] = ()
    ) -> None:
        self.layer_rows.append(frozenset(rows))
        self.similarity.append(similarity)
        self.tracked.append(frozenset(tracked))

    def note(self, distance: float) -> None:
        self.margin = min(self.margin, abs(distance))


@dataclass
class LayerRecord(Record):
    """A record with the details of each step, of the sequence itself (not its guidance copy)."""

    layer_rows: list[list[frozenset[int]]] = field(default_factory=list)
    boundaries: list[int | None] = field(default_factory=list)
    similarities: list[tuple[float | None, ...]] = field(default_factory=list)
    tracked: list[list[frozenset[int]]] = field(default_factory=list)
    rows_computed: int = 0  # over layers and guidance copies


def record_layers(canvas: Canvas) -> None:
    """Makes a new canvas keep a :class:`LayerRecord`."""
    record = canvas.record
    canvas.record = LayerRecord(
        commit_step=record.commit_step, log_confidence=record.log_confidence
    )


def guided_copies(settings: Settings) -> int:
    return 2 if settings.cfg_scale > 0 else 1


def guided_logits(canvas: Canvas, logits: list[torch.Tensor]) -> torch.Tensor:
    """One ``[R, V]`` for each copy of the sequence -> ``[R, V]``."""
    return canvas.guided(torch.stack(logits))


def note_step(canvas: Canvas, copies: list[StepRows]) -> None:
    """Adds a step to the record: details of the first copy, margins and rows of all of them."""
    record, step = canvas.record, copies[0]
    record.margin = min(record.margin, *(copy.margin for copy in copies), math.inf)
    record.layer_rows.append(step.layer_rows)
    record.boundaries.append(step.boundary)
    record.similarities.append(tuple(step.similarity))
    record.tracked.append(step.tracked)
    record.rows.append(sum(len(copy.layer_rows[0]) for copy in copies))
    record.rows_computed += sum(len(rows) for copy in copies for rows in copy.layer_rows)
    if step.refresh:
        record.refresh_steps.append(canvas.step)
