"""dKV-Cache-PD (arXiv 2505.15781, section 3.3): the prompt is frozen, decoded tokens are cached.

As ``dkv-decode`` for the generated region, with the prompt computed at the first step only. The
published form is Dream's; on LLaDA the same rule runs without the shift. Steps are counted over the
whole sequence, blocks do not reset anything.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from dlmcache_cuda.policies.base import (
    PolicyConfig,
    SlotPlan,
    SlotView,
    check_choice,
    check_interval,
    is_due,
)
from dlmcache_cuda.policies.dkv_cacheable import SHIFT_TYPES
from dlmcache_cuda.policies.dkv_decode import DkvDecode
from dlmcache_cuda.policies.registry import register_policy


@dataclass(frozen=True, slots=True)
class DkvPdConfig(PolicyConfig):
    """Settings of dKV-Cache-PD.

    Args:
        cache_reloading_step: steps from one computation of the generated region to the next.
            Default: 4, the authors' value.
        shift_type: which rows a Dream may keep, as for ``dkv-decode``.
        prompt_refresh_steps: steps from one computation of the prompt to the next. None (the
            paper): never again. 1 is vanilla.
    """

    cache_reloading_step: int = 4
    shift_type: str = "un"
    prompt_refresh_steps: int | None = None

    def __post_init__(self) -> None:
        check_interval("cache_reloading_step", self.cache_reloading_step)
        check_choice("shift_type", self.shift_type, SHIFT_TYPES)
        check_interval("prompt_refresh_steps", self.prompt_refresh_steps, optional=True)


@register_policy("dkv-pd")
class DkvPd(DkvDecode):
    """Freezes the prompt and caches decoded tokens with a delay of one step (dKV-Cache-PD)."""

    Config = DkvPdConfig

    def plan_slot(self, view: SlotView) -> SlotPlan:
        if is_due(view.step, self.config.prompt_refresh_steps):
            return SlotPlan(0, view.length, refresh=True)
        return replace(super().plan_slot(view), begin=view.prompt_length - view.shift)

    def _full(self, view: SlotView) -> bool:
        return view.step % self.config.cache_reloading_step == 0

    @classmethod
    def exact_config(cls) -> DkvPdConfig:
        return DkvPdConfig(prompt_refresh_steps=1)
