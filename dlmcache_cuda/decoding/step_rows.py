"""The row lists of a step: what enters the network, what is predicted, what may be committed."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from dlmcache_cuda import ops
from dlmcache_cuda.cache import RowList
from dlmcache_cuda.decoding.canvas import Canvas
from dlmcache_cuda.decoding.control import StepControl
from dlmcache_cuda.decoding.step_shape import StepShape
from dlmcache_cuda.model import Prediction
from dlmcache_cuda.policies import StepPlan, StepView


class StepRows:
    """Row lists made from a plan. The device is read only for sizes that the shape leaves open.

    Args:
        shift: 1 where row p - 1 predicts position p.
        whole: every computed mask is predicted, not only the block's.
        due: random order: ``row_index`` and ``cu_rows`` of the positions whose turn it is.

    Attributes:
        entering: rows of the network's slots that go into the first layer.
        marked_counts: ``[S]``, for each of these slots the rows that are marked, whether or not
            there is room for them; None where there is room for all.
        overflows: bool, whether there is not.
        forced_counts: ``[S]``, for each of these slots the rows that sparse layers must compute;
            None where none are forced.
        predicted: masked positions that the head predicts.
    """

    def __init__(
        self,
        canvas: Canvas,
        step: StepView,
        plan: StepPlan,
        control: StepControl,
        shape: StepShape,
        *,
        shift: int,
        whole: bool,
        due: tuple[Tensor, Tensor] | None,
    ) -> None:
        self._canvas, self._control, self._shape_of_step = canvas, control, shape
        self._shift = shift
        columns = control.columns
        begin, stop = canvas.twins(columns.begin), canvas.twins(columns.stop)
        active = self._active(plan, begin, stop) if shape.marked else None
        self.marked_counts = self.overflows = None
        if shape.expected:
            self.marked_counts = active.sum(1)
            self.overflows = self.marked_counts.sum() > shape.entering
            # Marked rows that do not fit are left out; the step will be repeated.
            marked = self._takes_marked()
            chosen = active & marked
            room = shape.entering - (active & ~marked).sum()
            fits = (chosen.flatten().cumsum(0) <= room).view(active.shape)
            active = active & (fits | ~marked)
        flags = step.masked
        if active is not None and due is None:
            predicting = active[: canvas.num_slots]
            flags = flags & (predicting.roll(shift, 1) if shift else predicting).flatten()
        self.forced_counts = None
        if plan.forced is not None:
            inside = self._inside(begin, stop)
            self.forced_counts = (inside & plan.forced.view(inside.shape)).sum(1)
        if shape.resumes:
            # The rows that entered went through the guess already.
            begin, active = stop, None
        self.entering = RowList.from_bounds(
            begin,
            stop,
            canvas.capacity,
            shape.entering,
            flags=None if active is None else active.flatten(),
            counts=shape.counts,
        )
        self._candidates: RowList | None = None
        if due is not None:
            self.predicted = RowList(*due, None, canvas.capacity)
            return
        first = torch.zeros_like(columns.length) if whole else control.loop.candidates_begin
        last = columns.length if whole else columns.block_end
        limited = shape.limited and not whole
        self.predicted = self._list(first, last, flags, shape.predicted, limited)
        if whole:
            self._candidates = self._list(
                control.loop.candidates_begin, columns.block_end, flags, shape.committable, False
            )

    def _active(self, plan: StepPlan, begin: Tensor, stop: Tensor) -> Tensor:
        """``[S, capacity]`` bool, for slots of the network: the rows that enter."""
        marks = plan.marks.view(len(begin), -1)
        if self._shape_of_step.anywhere and not self._shape_of_step.expected:
            return marks
        return self._inside(begin, stop) & (marks | ~self._takes_marked())

    def _takes_marked(self) -> Tensor:
        """``[S, 1]`` bool, for slots of the network: whether only marked rows enter."""
        return self._canvas.twins(self._control.columns.marked)[:, None] > 0

    def _list(
        self, begin: Tensor, end: Tensor, flags: Tensor, max_rows: int | None, limited: bool
    ) -> RowList:
        limit = self._control.loop.limit if limited else None
        return RowList.from_bounds(
            begin, end, self._canvas.capacity, max_rows, flags=flags, limit=limit
        )

    def _inside(self, begin: Tensor, end: Tensor) -> Tensor:
        """``[S, capacity]`` bool: the positions ``begin[s] <= p < end[s]``."""
        positions = self._canvas.positions
        return (positions >= begin[:, None]) & (positions < end[:, None])

    def places(self, rows: RowList) -> Tensor:
        """Where the predicting row of each predicted position stands among ``rows``."""
        return self.predicting.places_in(rows)

    @cached_property
    def predicting(self) -> RowList:
        """The row that predicts each predicted position; with ``slice_shift`` one may predict
        two."""
        predicted = self.predicted
        if not (self._shift and self._shape_of_step.sliced):
            return predicted.shifted(self._shift)
        row_index = predicted.row_index - self._shift
        row_index = row_index.maximum(self._floor(predicted.row_index))
        row_index = row_index.masked_fill(predicted.row_index < 0, -1)
        return RowList(row_index, predicted.cu_rows, None, predicted.capacity)

    def lacking(self) -> Tensor:
        """``[S]`` bool: slots where fewer positions are predicted than have to be."""
        places = self.places(self.entering)
        found = (places >= 0).cumsum(0)
        ends = torch.cat((found.new_zeros(1), found))[self.predicted.cu_rows]
        return ends.diff() < self._control.loop.needed

    def _floor(self, query: Tensor) -> Tensor:
        """The first row that may predict a position: the first that enters with ``slice_shift``."""
        capacity = self._canvas.capacity
        slot = query.clamp(min=0) // capacity
        return slot * capacity + self._control.loop.floor[slot]

    def committable(self, prediction: Prediction) -> tuple[RowList, Prediction]:
        """The positions that may be committed, and what is predicted there (without extras)."""
        if self._candidates is None:
            return self.predicted, prediction
        predicted, chosen = self.predicted, self._candidates
        places = chosen.places_in(predicted)
        score, log_prob = prediction.score, prediction.log_prob
        return chosen, prediction._replace(
            token=ops.gather_rows(prediction.token, places),
            log_confidence=ops.gather_rows(prediction.log_confidence, places),
            score=None if score is None else ops.gather_rows(score, places),
            log_prob=None if log_prob is None else ops.gather_rows(log_prob, places),
        )
