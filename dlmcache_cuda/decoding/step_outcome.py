"""What the host learns of a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dlmcache_cuda.decoding.cuts import NUM_COLUMNS, read_cut
from dlmcache_cuda.decoding.slots import Cut, SlotStatus
from dlmcache_cuda.decoding.step_program import StepOutput
from dlmcache_cuda.decoding.step_shape import StepShape


@dataclass(slots=True)
class StepOutcome:
    """A step as its report tells it, and what it left on the device."""

    statuses: list[SlotStatus]
    cuts: list[Cut | None]
    computed: list[int]
    """Rows computed for each slot of the network, summed over layers."""
    boundaries: list[int]
    """Of each slot of the network, -1 for none."""
    outputs: list[StepOutput]
    """Of the step, and of the one that went on with it."""

    @classmethod
    def read(
        cls, output: StepOutput, report: Sequence[int], num_slots: int, shape: StepShape
    ) -> StepOutcome:
        """Cuts a report into what :class:`StepProgram` put together."""
        numbers = iter(report)

        def rows(width: int) -> list[list[int]]:
            return [[next(numbers) for _ in range(width)] for _ in range(num_slots)]

        statuses = [SlotStatus(*row) for row in rows(len(SlotStatus.__dataclass_fields__))]
        cuts: list[Cut | None] = [None] * num_slots
        if shape.cuts:
            cuts = [read_cut(row) for row in rows(NUM_COLUMNS)]
        rest = list(numbers)
        network_slots = output.result.computed.numel()
        computed, boundaries = rest[:network_slots], rest[network_slots:]
        return cls(statuses, cuts, computed, boundaries or [-1] * network_slots, [output])

    def guessed_wrong(self, exact: bool, n_layers: int) -> list[int | None]:
        """The boundaries above which layers have to be computed anew."""
        found = self.boundaries[: len(self.statuses)]
        return [None if exact or not 0 <= bound < n_layers else bound for bound in found]

    def add(self, other: StepOutcome, wrong: Sequence[int | None]) -> None:
        """Takes the rest of the step into account, which ``wrong`` slots went through."""
        for slot, bound in enumerate(wrong):
            if bound is not None:
                self.statuses[slot], self.cuts[slot] = other.statuses[slot], other.cuts[slot]
                self.computed[slot] += other.computed[slot]
        self.outputs += other.outputs

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
            # A step that went on comes second: its predictions are the ones that counted.
            rows, prediction = out.predicted
            index, token = torch.stack((rows.row_index, prediction.draft)).cpu()
            draft[index[index >= 0]] = token[index >= 0]
        return draft.masked_fill(tokens != mask_id, mask_id)
