"""dKV-Cache-Prefill (arXiv 2505.15781, section 3.3): the prompt is computed once.

Published for Dream, where the last prompt row predicts the first generated token and stays active;
on LLaDA the whole prompt is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

from dlmcache_cuda.policies.base import (
    CachePolicy,
    PolicyConfig,
    SlotPlan,
    SlotView,
    check_interval,
    is_due,
)
from dlmcache_cuda.policies.registry import register_policy


@dataclass(frozen=True, slots=True)
class DkvPrefillConfig(PolicyConfig):
    """Settings of dKV-Cache-Prefill.

    Args:
        refresh_steps: steps from one computation of the prompt to the next. None (the paper):
            never again. 1 is vanilla.
    """

    refresh_steps: int | None = None

    def __post_init__(self) -> None:
        check_interval("refresh_steps", self.refresh_steps, optional=True)


@register_policy("dkv-prefill")
class DkvPrefill(CachePolicy):
    """Caches the prompt (dKV-Cache-Prefill)."""

    Config = DkvPrefillConfig

    def plan_slot(self, view: SlotView) -> SlotPlan:
        if is_due(view.step, self.config.refresh_steps):
            return SlotPlan(0, view.length, refresh=True)
        return SlotPlan(view.prompt_length - view.shift, view.length, refresh=False)

    @classmethod
    def exact_config(cls) -> DkvPrefillConfig:
        return DkvPrefillConfig(refresh_steps=1)
