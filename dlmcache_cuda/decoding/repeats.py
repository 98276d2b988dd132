"""Steps for some of the slots: those whose first attempt did not hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dlmcache_cuda.policies import IDLE, StepPlan, StepView


def of_slots(step: StepView, plan: StepPlan, wanted: Sequence[bool]) -> tuple[StepView, StepPlan]:
    """The same step for some of the slots."""
    views = [view if kept else None for view, kept in zip(step.slots, wanted, strict=True)]
    slots = [chosen if kept else IDLE for chosen, kept in zip(plan.slots, wanted, strict=True)]
    return StepView(views), StepPlan(slots, window_rows=plan.window_rows)


def whole_ranges(plan: StepPlan, wanted: Sequence[bool]) -> StepPlan:
    """The plan with all rows of the ranges of these slots, not only the marked ones."""
    slots = [
        replace(chosen, refresh=True, marked=False, rows=None) if whole else chosen
        for chosen, whole in zip(plan.slots, wanted, strict=True)
    ]
    return StepPlan(slots, window_rows=plan.window_rows)
