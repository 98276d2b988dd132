"""What the host knows of a step before it runs: sizes, budgets and the control block."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from dlmcache_cuda.decoding.control import (
    FREE_SLOT,
    NO_LIMIT,
    ControlBlock,
    StepControl,
    due_rows,
    flatten,
    listed_rows,
    slot_numbers,
)
from dlmcache_cuda.decoding.slots import Slot
from dlmcache_cuda.decoding.step_shape import StepShape
from dlmcache_cuda.policies import SlotPlan, SlotView, StepPlan, StepView
from dlmcache_cuda.stack import BudgetPlan, SlotRows, plan_budgets

if TYPE_CHECKING:
    from dlmcache_cuda.decoding.decoder import SlotDecoder


class StepPlanner:
    """Turns a policy's plan into the numbers that a decoder's step needs."""

    def __init__(self, decoder: SlotDecoder) -> None:
        self.model, self.policy, self.canvas = decoder.model, decoder.policy, decoder.canvas
        self.slots, self.spec = decoder.slots, decoder.stack.spec
        self.exact, self.random_order = decoder.exact, decoder.random_order
        num_slots, capacity = self.canvas.num_slots, self.canvas.capacity
        self._block = ControlBlock(
            decoder.model.device,
            num_slots,
            self.canvas.network_slots // num_slots,
            self.model.config.n_layers,
            capacity,
            num_slots * capacity if self.policy.lists_rows else 0,
        )

    def slot_rows(
        self, step: StepView, plan: StepPlan, resumes: bool, marked: Sequence[int] | None
    ) -> list[SlotRows]:
        """What every slot of the network brings to its layers."""
        slots = []
        for slot, (view, chosen) in enumerate(zip(step.slots, plan.slots, strict=True)):
            if view is None:
                slots.append(SlotRows(chosen, 0, 0, 0, 0))
                continue
            rows = chosen.end - chosen.begin
            if resumes:
                rows = 0
            elif chosen.marked:
                rows = self._room(view, chosen) if marked is None else marked[slot]
            forced = self.policy.max_forced(view, chosen)
            slots.append(SlotRows(chosen, view.gen_length, view.length, rows, forced))
        return self.canvas.twinned(slots)

    def _room(self, view: SlotView, plan: SlotPlan) -> int:
        """Marked rows of a slot that a step makes room for."""
        most = self.policy.max_rows(view, plan)
        expected = self.policy.expected_rows(view, plan)
        return most if expected is None else min(expected, most)

    def budgets(
        self, slots: Sequence[SlotRows], boundary: Sequence[int | None] | None
    ) -> BudgetPlan | None:
        """How many rows layers select, where the host can know it before the step: not where an
        exact step tests drift."""
        spec = self.spec
        if spec.selection is None or (self.exact and spec.tracking is not None):
            return None
        return plan_budgets(spec.selection, self.model.config.n_layers, slots, boundary)

    def shape(
        self,
        step: StepView,
        plan: StepPlan,
        slots: Sequence[SlotRows],
        budgets: BudgetPlan | None,
        resumes: bool,
        repeats: bool,
    ) -> StepShape:
        marked = any(slot.marked for slot in plan.slots)
        unknown = any(slot.marked and slot.rows is None for slot in plan.slots)
        counts = tuple(slot.carried for slot in slots)
        entering, predicted, committable = sum(counts), None, None
        expected = False
        if unknown and not resumes and not repeats and not self.exact:
            expected = any(
                self.policy.expected_rows(view, chosen) is not None
                for view, chosen in zip(step.slots, plan.slots, strict=True)
                if chosen.marked
            )
        whole = self.policy.head_scope == "all"
        if self.random_order:
            predicted = sum(len(view.due) for view in step.slots if view is not None)
        elif not self.exact or not (whole or marked):
            predicted = sum(
                min(
                    slot.num_candidates(chosen),
                    NO_LIMIT if chosen.window is None else chosen.window,
                )
                for slot, view, chosen in zip(self.slots, step.slots, plan.slots, strict=True)
                if view is not None
            )
            if whole:
                # Every row that enters may predict one of the masks.
                masks = sum(_masks_at_most(view) for view in step.slots if view is not None)
                predicted, committable = min(masks, entering), predicted
        if unknown and not resumes:
            counts = tuple(
                None if slot.plan.marked and slot.plan.rows is None else slot.carried
                for slot in slots
            )
            entering = None if self.exact else entering
        return StepShape(
            entering=entering,
            counts=counts,
            predicted=predicted,
            committable=committable,
            listed=sum(len(slot.rows or ()) for slot in plan.slots),
            window=plan.window_rows,
            budgets=None if budgets is None else tuple(budgets.sizes),
            marked=marked,
            anywhere=marked and all(map(self._enters_anywhere, step.slots, plan.slots)),
            expected=expected,
            may_lack=marked and not resumes and self.policy.may_lack_rows,
            limited=any(slot.window is not None for slot in plan.slots),
            sliced=any(slot.slice_shift for slot in plan.slots),
            tested=any(slot.tested for slot in plan.slots) and not resumes,
            cuts=any(self._may_cut(slot) or self._pads(slot) for slot in self.slots),
            given=any(slot is not None and slot.region.has_given for slot in self.slots),
            resumes=resumes,
        )

    def _enters_anywhere(self, view: SlotView | None, plan: SlotPlan) -> bool:
        """Whether only marked rows enter, and the range says nothing about those that predict."""
        if view is None:
            return True
        first = max(view.prompt_length - view.shift, 0)
        return plan.marked and plan.begin <= first and plan.end == view.length

    def may_capture(self, plan: StepPlan) -> bool:
        """Refreshes compute so much that launching kernels one by one costs nothing; their row
        counts, which choose dense attention, would make every graph one of a kind."""
        return not any(slot.refresh for slot in plan.slots)

    def _may_cut(self, slot: Slot | None) -> bool:
        cuts = self.policy.cuts_at_eos and self.policy.frame.end_token_id is not None
        return cuts and slot is not None and not slot.was_cut

    def _pads(self, slot: Slot | None) -> bool:
        every = self.policy.pad_steps
        return every is not None and slot is not None and (slot.step + 1) % every == 0

    def upload(
        self,
        step: StepView,
        plan: StepPlan,
        budgets: BudgetPlan | None,
        shape: StepShape,
        boundary: Sequence[int | None] | None,
    ) -> StepControl:
        numbers = [
            FREE_SLOT
            if view is None
            else slot_numbers(slot, view, chosen, self._may_cut(slot), self._pads(slot))
            for slot, view, chosen in zip(self.slots, step.slots, plan.slots, strict=True)
        ]
        extra = [] if budgets is None else [n for layer in budgets.rows for n in layer]
        extra += listed_rows(plan.slots, self.canvas.capacity, shape.listed)
        if self.random_order:
            extra += due_rows(step.slots, self.canvas.capacity, shape.predicted)
        bounds = [0] * self.canvas.network_slots
        if boundary is not None:
            layers, views = self.model.config.n_layers, self.canvas.twinned(step.slots)
            bounds = [
                0 if view is None else layers if bound is None else bound
                for view, bound in zip(views, boundary, strict=True)
            ]
        return self._block.upload(flatten(numbers, bounds, extra))


def _masks_at_most(view: SlotView) -> int:
    """Masks in a canvas; those behind an early end are not counted one by one."""
    return view.masks_to_end if view.end == view.length else view.gen_length
