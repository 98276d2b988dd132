"""The row lists of a step: what enters the network, what is predicted, what may be committed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dlmcache_cuda import ops
from dlmcache_cuda.cache import RowList
from dlmcache_cuda.decoding.canvas import StepControl
from dlmcache_cuda.model import Prediction
from dlmcache_cuda.policies import StepPlan, StepView

if TYPE_CHECKING:
    from dlmcache_cuda.decoding.decoder import Decoder


class StepRows:
    """Row lists made from a plan.

    Lists of contiguous ranges have lengths that the host knows; those of marked rows are counted on
    the device, in one readback.

    Attributes:
        entering: rows of the network's slots that go into the first layer.
        forced_counts: for each of these slots, rows that sparse layers must compute.
        predicted: masked positions that the head predicts.
    """

    def __init__(
        self, decoder: Decoder, step: StepView, plan: StepPlan, control: StepControl
    ) -> None:
        canvas, policy = decoder.canvas, decoder.policy
        self._canvas = canvas
        self._shift = decoder.model.shift
        self._plans = plan.slots
        self._shape = (canvas.num_slots, canvas.capacity)
        self._positions = torch.arange(canvas.capacity, device=step.masked.device)
        random_order = decoder.sampler.remasking == "random_order"
        whole = policy.head_scope == "all"
        marked = any(slot.marked for slot in plan.slots)
        counted: dict[str, Tensor] = {}
        flags = step.masked
        if marked:
            active = self._active(plan)
            counted["entering"] = active.sum(1)
            if not random_order:
                flags = step.masked & active[: canvas.num_slots].roll(self._shift, 1).flatten()
        first = torch.zeros_like(step.lengths) if whole else control.candidates_begin
        last = step.lengths if whole else control.block_end
        if (marked or whole) and not random_order:
            counted["predicted"] = self._count(flags, first, last)
            counted["committable"] = self._count(flags, control.candidates_begin, control.block_end)
        if plan.forced is not None:
            counted["forced"] = self._forced(plan)
        counts = _read(counted)

        begin = canvas.twinned([slot.begin for slot in plan.slots])
        end = canvas.twinned([slot.end for slot in plan.slots])
        if marked:
            bounds = torch.tensor([begin, end], dtype=torch.int64).to(flags.device)
            number = counts["entering"]
            listed = ops.build_rows(
                bounds[0], bounds[1], canvas.capacity, sum(number), flags=active.flatten()
            )
            self.entering = RowList(*listed, tuple(number), canvas.capacity)
        else:
            self.entering = RowList.from_ranges(begin, end, canvas.capacity, flags.device)
        self.forced_counts = counts.get("forced", ())

        slots = list(zip(decoder.slots, plan.slots, strict=True))
        self._candidates: RowList | None = None
        if random_order:
            self.predicted = self._due(step)
            return
        if marked or whole:
            number = counts["predicted"]
        else:
            number = [0 if slot is None else slot.num_candidates(chosen) for slot, chosen in slots]
        limit = None
        if not whole and any(chosen.window is not None for chosen in plan.slots):
            windows = [
                canvas.capacity if chosen.window is None else chosen.window for chosen in plan.slots
            ]
            number = [min(pair) for pair in zip(windows, number, strict=True)]
            limit = torch.tensor(number, dtype=torch.int64).to(flags.device)
        self.predicted = self._list(first, last, flags, number, limit)
        if whole:
            self._candidates = self._list(
                control.candidates_begin, control.block_end, flags, counts["committable"], None
            )

    def _list(
        self, begin: Tensor, end: Tensor, flags: Tensor, counts: list[int], limit: Tensor | None
    ) -> RowList:
        capacity = self._canvas.capacity
        row_index, cu_rows = ops.build_rows(
            begin.contiguous(), end.contiguous(), capacity, sum(counts), flags=flags, limit=limit
        )
        return RowList(row_index, cu_rows, tuple(counts), capacity)

    def _due(self, step: StepView) -> RowList:
        """Random order: the positions whose turn it is."""
        capacity = self._canvas.capacity
        due = [[] if view is None else sorted(view.due) for view in step.slots]
        rows = [slot * capacity + p for slot, places in enumerate(due) for p in places]
        counts = tuple(len(places) for places in due)
        row_index = torch.tensor(rows, dtype=torch.int64)
        cu_rows = torch.tensor((0, *counts), dtype=torch.int64).cumsum(0)
        device = step.masked.device
        return RowList(row_index.to(device), cu_rows.to(device), counts, capacity)

    def _active(self, plan: StepPlan) -> Tensor:
        """``[network slots, capacity]`` bool: rows that enter."""
        slots = self._canvas.twinned(plan.slots)
        facts = torch.tensor(
            [(slot.begin, slot.end, slot.marked) for slot in slots], dtype=torch.int64
        ).to(self._positions.device)
        begin, end, marked = facts[:, 0:1], facts[:, 1:2], facts[:, 2:3].bool()
        inside = (self._positions >= begin) & (self._positions < end)
        return inside & (plan.marks.view(inside.shape) | ~marked)

    def _forced(self, plan: StepPlan) -> Tensor:
        slots = self._canvas.twinned(plan.slots)
        bounds = torch.tensor([(slot.begin, slot.end) for slot in slots], dtype=torch.int64)
        bounds = bounds.to(self._positions.device)
        inside = (self._positions >= bounds[:, 0:1]) & (self._positions < bounds[:, 1:2])
        return (inside & plan.forced.view(inside.shape)).sum(1)

    def _count(self, flags: Tensor, begin: Tensor, end: Tensor) -> Tensor:
        inside = (self._positions >= begin[:, None]) & (self._positions < end[:, None])
        return (flags.view(self._shape) & inside).sum(1)

    def places(self, rows: RowList) -> Tensor:
        """Where the predicting row of each predicted position stands among ``rows``."""
        query = self.predicted.row_index
        if self._shift:
            query = torch.where(query < 0, -1, (query - self._shift).maximum(self._floor(query)))
        return ops.find_rows(rows.row_index, rows.cu_rows, query, rows.capacity)

    def _floor(self, query: Tensor) -> Tensor:
        """The first row that may predict a position: the first that enters with ``slice_shift``."""
        capacity = self._canvas.capacity
        floors = torch.tensor(
            [plan.begin if plan.slice_shift else 0 for plan in self._plans], dtype=torch.int64
        ).to(query.device)
        slot = query.clamp(min=0) // capacity
        return slot * capacity + floors[slot]

    def committable(self, prediction: Prediction) -> tuple[RowList, Prediction]:
        """The positions that may be committed, and what is predicted there (without extras)."""
        if self._candidates is None:
            return self.predicted, prediction
        predicted, chosen = self.predicted, self._candidates
        places = ops.find_rows(
            predicted.row_index, predicted.cu_rows, chosen.row_index, chosen.capacity
        )
        score = prediction.score
        return chosen, prediction._replace(
            token=ops.gather_rows(prediction.token, places),
            log_confidence=ops.gather_rows(prediction.log_confidence, places),
            score=None if score is None else ops.gather_rows(score, places),
        )


def _read(counted: dict[str, Tensor]) -> dict[str, list[int]]:
    """The counts on the host, by one copy."""
    if not counted:
        return {}
    values = torch.cat(list(counted.values())).tolist()
    read, first = {}, 0
    for name, tensor in counted.items():
        read[name] = values[first : first + tensor.numel()]
        first += tensor.numel()
    return read
