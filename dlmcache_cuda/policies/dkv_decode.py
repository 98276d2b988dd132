"""dKV-Cache-Decode (arXiv 2505.15781, section 3.2): keep decoded tokens, one step delayed.

Rows of masked tokens are recomputed at every step, in all blocks that are left; a decoded token is
recomputed once more, with the token itself as input, and then comes from the cache. Everything is
recomputed every ``cache_reloading_step`` steps of a block.

The authors' code keeps keys and values of the cached rows apart, before RoPE, and re-orders them at
every step; here each row has its place by position, after RoPE, which gives the same attention.
Their LLaDA code computes everything at steps 0 and 1 of a block, their Dream code at step 0 only.
"""

from __future__ import annotations

from dataclasses import dataclass

from dlmcache_cuda.policies.base import (
    CachePolicy,
    Frame,
    PolicyConfig,
    SlotPlan,
    SlotView,
    StepPlan,
    StepResult,
    StepView,
    check_choice,
    check_interval,
)
from dlmcache_cuda.policies.dkv_cacheable import SHIFT_TYPES, cacheable_rows
from dlmcache_cuda.policies.registry import register_policy


@dataclass(frozen=True, slots=True)
class DkvDecodeConfig(PolicyConfig):
    """Settings of dKV-Cache-Decode.

    Args:
        cache_reloading_step: steps of a block from one computation of the whole canvas to the next.
            Default: 8, the authors' value for LLaDA (4 for Dream). 1 is vanilla.
        shift_type: ``un``, ``un_right`` or ``right``: which rows a Dream may keep; see
            ``dkv_cacheable``. Without effect on LLaDA.
    """

    cache_reloading_step: int = 8
    shift_type: str = "un"

    def __post_init__(self) -> None:
        check_interval("cache_reloading_step", self.cache_reloading_step)
        check_choice("shift_type", self.shift_type, SHIFT_TYPES)


@register_policy("dkv-decode")
class DkvDecode(CachePolicy):
    """Caches decoded tokens with a delay of one step (dKV-Cache-Decode)."""

    Config = DkvDecodeConfig

    def attach(self, frame: Frame) -> None:
        super().attach(frame)
        self._settled = frame.flags()  # what could be kept when the step before began

    def _full(self, view: SlotView) -> bool:
        i = view.step_in_block
        return i % self.config.cache_reloading_step == 0 or (i == 1 and view.shift == 0)

    @property
    def may_lack_rows(self) -> bool:
        """``right`` keeps rows that predict masks; where too few others are left, all are due."""
        return self.frame.shift > 0 and self.config.shift_type == "right"

    def plan_slot(self, view: SlotView) -> SlotPlan:
        full = self._full(view)
        return SlotPlan(0, view.length, refresh=full, marked=not full)

    def mark(self, step: StepView, plan: StepPlan) -> None:
        plan.marks = self.frame.twinned(~self._settled)
        self._cacheable = cacheable_rows(step, self.frame, self.config.shift_type)

    def after_commit(self, result: StepResult) -> None:
        result.keep(self._settled, self._cacheable)

    def max_rows(self, view: SlotView, plan: SlotPlan) -> int:
        # What was masked when the step before began, and with a shift the rows before.
        masks = view.masks_to_end + view.commits[-1]
        if view.shift and view.step == 1:
            masks = view.gen_length  # the first step settles nothing there, given or not
        if view.shift:
            masks = 1 + masks * (2 if self.config.shift_type == "un_right" else 1)
        return min(masks, plan.end - plan.begin)

    @classmethod
    def exact_config(cls) -> DkvDecodeConfig:
        return DkvDecodeConfig(cache_reloading_step=1)
