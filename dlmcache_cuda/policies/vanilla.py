"""No cache: every step computes the whole canvas, as LLaDA's reference decoding does."""

from __future__ import annotations

from dataclasses import dataclass

from dlmcache_cuda.policies.base import CachePolicy, PolicyConfig, SlotPlan, SlotView
from dlmcache_cuda.policies.registry import register_policy


@dataclass(frozen=True, slots=True)
class VanillaConfig(PolicyConfig):
    """Vanilla decoding has no settings."""


@register_policy("none")
class Vanilla(CachePolicy):
    """Recomputes everything (LLaDA reference code, ``generate``)."""

    Config = VanillaConfig

    def plan_slot(self, view: SlotView) -> SlotPlan:
        return SlotPlan(0, view.length, refresh=True)

    @classmethod
    def exact_config(cls) -> VanillaConfig:
        return VanillaConfig()
