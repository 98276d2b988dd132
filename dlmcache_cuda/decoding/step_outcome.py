"""What the host learns of a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from dlmcache_cuda.decoding.cuts import NUM_COLUMNS, read_cut
from dlmcache_cuda.decoding.slots import Cut, SlotStatus
from dlmcache_cuda.decoding.step_program import StepOutput
from dlmcache_cuda.decoding.step_shape import StepShape
from dlmcache_cuda.policies import StepView

_STATUS_COLUMNS = len(SlotStatus.__dataclass_fields__)


@dataclass(slots=True)
class StepOutcome:
    """A step as its report tells it, and what it left on the device."""

    statuses: list[SlotStatus]
    cuts: list[Cut | None]
    computed: list[int]
    """Rows computed for each slot of the network, summed over layers."""
    boundaries: list[int]
    """Of each slot of the network, -1 for none."""
    marked: list[int] | None
    """Rows that were marked of each slot of the network, where they were expected to be fewer."""
    overflows: bool
    """There was no room for them: nothing was committed."""
    lacking: list[bool]
    """Slots that predicted too little: nothing was committed there."""
    committed: list[tuple[int, ...]]
    """Random order: the positions that were committed, of each slot."""
    outputs: list[StepOutput]
    """Of the step, of the one that repeated it, and of the one that went on with it."""
    made_by: list[int] = field(default_factory=list)
    """Which output tells of each slot."""
    resumed: list[int | None] = field(default_factory=list)
    """Which output tells of each slot that went on: of its predictions, and of the layers above its
    boundary."""

    @classmethod
    def read(
        cls, output: StepOutput, report: Sequence[int], step: StepView, shape: StepShape
    ) -> StepOutcome:
        """Cuts a report into what :class:`StepProgram` put together."""
        parts, first = {}, 0
        for name, size in output.parts.items():
            parts[name] = list(report[first : first + size])
            first += size
        slots = len(step.slots)
        marked = parts.get("marked")
        computed = parts.get("computed") or list(output.result.computed)
        return cls(
            statuses=[SlotStatus(*row) for row in _rows(parts["status"], _STATUS_COLUMNS)],
            cuts=[read_cut(row) for row in _rows(parts["cuts"], NUM_COLUMNS)]
            if "cuts" in parts
            else [None] * slots,
            computed=computed,
            boundaries=parts.get("boundaries") or [-1] * len(computed),
            marked=marked,
            overflows=marked is not None and sum(marked) > shape.entering,
            lacking=[flag > 0 for flag in parts.get("lacking", [0] * slots)],
            committed=_committed(step, parts.get("due", ())),
            outputs=[output],
            made_by=[0] * slots,
            resumed=[None] * slots,
        )

    def guessed_wrong(self, exact: bool, n_layers: int) -> list[int | None]:
        """The boundaries above which layers have to be computed anew, of the network's slots."""
        return [None if exact or not 0 <= bound < n_layers else bound for bound in self.boundaries]

    def of_twins(self, boundary: Sequence[int | None]) -> list[bool]:
        """Whether there is one, of each slot or its twin."""
        slots = len(self.statuses)
        return [any(bound is not None for bound in boundary[s::slots]) for s in range(slots)]

    def replace(self, other: StepOutcome, repeated: Sequence[bool]) -> None:
        """Takes the repetition of the step into account, which some slots went through."""
        self._take(other, repeated)
        for slot in _network_slots(repeated, len(self.computed)):
            self.computed[slot] = other.computed[slot]
            self.boundaries[slot] = other.boundaries[slot]
        for slot, again in enumerate(repeated):
            if again:
                self.made_by[slot] = len(self.outputs)
        self.outputs += other.outputs

    def add(self, other: StepOutcome, wrong: Sequence[bool]) -> None:
        """Takes the rest of the step into account, which ``wrong`` slots went through."""
        self._take(other, wrong)
        for slot in _network_slots(wrong, len(self.computed)):
            self.computed[slot] += other.computed[slot]
        self.resumed = [len(self.outputs) if went_on else None for went_on in wrong]
        self.outputs += other.outputs

    def _take(self, other: StepOutcome, chosen: Sequence[bool]) -> None:
        for slot, is_chosen in enumerate(chosen):
            if is_chosen:
                self.statuses[slot], self.cuts[slot] = other.statuses[slot], other.cuts[slot]
                self.committed[slot] = other.committed[slot]

    def committed_rows(self) -> list[Tensor]:
        """Flat rows that were committed, by output, on the CPU."""
        return [out.candidates.row_index[out.committed].cpu() for out in self.outputs]

    def draft(self, tokens: Tensor, mask_id: int) -> Tensor:
        """What was predicted at rows that are masks still, masks elsewhere: like ``tokens``.

        Args:
            tokens: ``[S * capacity]`` int64, CPU: the canvases after the step.
            mask_id: the mask.
        """
        draft = torch.full_like(tokens, mask_id)
        for out in self.outputs:
            # A step that was repeated or went on comes later: its predictions are those that count.
            rows, prediction = out.predicted
            index, token = torch.stack((rows.row_index, prediction.draft)).cpu()
            draft[index[index >= 0]] = token[index >= 0]
        return draft.masked_fill(tokens != mask_id, mask_id)


def _rows(numbers: Sequence[int], width: int) -> list[list[int]]:
    return [list(numbers[i : i + width]) for i in range(0, len(numbers), width)]


def _network_slots(chosen: Sequence[bool], number: int) -> list[int]:
    """The slots, and their twins where there are ``number`` slots of the network."""
    return [slot for slot in range(number) if chosen[slot % len(chosen)]]


def _committed(step: StepView, flags: Sequence[int]) -> list[tuple[int, ...]]:
    """Random order: which of the positions that are due were committed; ``flags`` tells it in the
    order of ``control.due_rows``."""
    flag = iter(flags)
    return [
        () if view is None or not flags else tuple(p for p in sorted(view.due) if next(flag))
        for view in step.slots
    ]
