"""dKV-Cache-Greedy (arXiv 2505.15781, section 3.2): a constant number of active rows.

Only for random order, where the positions that a step commits are known before it: their rows, the
rows of the tokens that the step before committed, and a window of masks around them are computed;
everything is recomputed every ``cache_reloading_step`` steps of a block.

The paper centres the window on the tokens just committed, the authors' code on those that come
next; the paper takes positions within half a window on either side, the code counts masks (as
here), nearest first, left and right in turn.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain

import torch

from dlmcache_cuda.policies.base import (
    IDLE,
    CachePolicy,
    Frame,
    PolicyConfig,
    SlotPlan,
    SlotView,
    StepPlan,
    StepView,
    check_choice,
    check_integer,
    check_interval,
)
from dlmcache_cuda.policies.registry import register_policy


@dataclass(frozen=True, slots=True)
class DkvGreedyConfig(PolicyConfig):
    """Settings of dKV-Cache-Greedy.

    Args:
        cache_reloading_step: steps of a block from one computation of the whole canvas to the next.
            Default: 2, the authors' value. 1 is vanilla in random order.
        window_length: masks computed around each centre. Default: 4, the authors' value; 0: none.
        window_center: ``next``, the tokens that the step commits (the authors' code), or
            ``previous``, those that the step before committed (the paper).
    """

    cache_reloading_step: int = 2
    window_length: int = 4
    window_center: str = field(default="next")

    def __post_init__(self) -> None:
        check_interval("cache_reloading_step", self.cache_reloading_step)
        check_integer("window_length", self.window_length, 0)
        check_choice("window_center", self.window_center, ("next", "previous"))


@register_policy("dkv-greedy")
class DkvGreedy(CachePolicy):
    """Computes what is committed now, what was committed last and a window (dKV-Cache-Greedy)."""

    Config = DkvGreedyConfig
    remasking = "random_order"
    shifts = (0,)
    lists_rows = True

    def attach(self, frame: Frame) -> None:
        super().attach(frame)
        # Of each slot, before the step that was planned last.
        self._masks: list[Sequence[int]] = [()] * frame.num_slots
        # All False; in a copy, one entry more takes the unused places of the list.
        rows = frame.num_slots * frame.capacity
        self._none = torch.zeros(rows + 1, dtype=torch.bool, device=frame.device)

    def plan(self, step: StepView) -> StepPlan:
        masks_before = self._masks
        self._masks = [() if view is None else view.masks for view in step.slots]
        return StepPlan(
            [
                IDLE if view is None else self._plan(view, masks)
                for view, masks in zip(step.slots, masks_before, strict=True)
            ]
        )

    def _plan(self, view: SlotView, masks_before: Sequence[int]) -> SlotPlan:
        if view.step_in_block % self.config.cache_reloading_step == 0:
            return SlotPlan(0, view.length, refresh=True)
        rows = tuple(sorted(self._active(view, masks_before)))
        return SlotPlan(0, view.length, refresh=False, marked=True, rows=rows)

    def mark(self, step: StepView, plan: StepPlan) -> None:
        marks = self._none.index_fill(0, step.listed, True)
        plan.marks = self.frame.twinned(marks[:-1])

    def max_rows(self, view: SlotView, plan: SlotPlan) -> int:
        return len(plan.rows)

    def _active(self, view: SlotView, masks_before: Sequence[int]) -> set[int]:
        active = {*view.due, *view.due_before}
        centers = view.due if self.config.window_center == "next" else view.due_before
        for center in centers:
            active.update(_nearest(center, masks_before, active, self.config.window_length))
        return active

    @classmethod
    def exact_config(cls) -> DkvGreedyConfig:
        return DkvGreedyConfig(cache_reloading_step=1)


def _nearest(center: int, masks: Sequence[int], taken: set[int], count: int) -> list[int]:
    """Up to ``count`` masks around ``center``, left and right in turn, nearest first."""
    left, right = masks[: bisect_left(masks, center)], masks[bisect_right(masks, center) :]
    sides = [(p for p in side if p not in taken) for side in (left[::-1], right)]
    chosen: list[int] = []
    while len(chosen) < count:
        turn = len(chosen) % 2
        found = next(chain(sides[turn], sides[1 - turn]), None)
        if found is None:
            break
        chosen.append(found)
    return chosen
