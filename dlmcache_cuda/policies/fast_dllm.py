"""Fast-dLLM's block caches (arXiv 2505.22618, section 3.2).

The first step of a block computes the whole canvas and caches all keys and values; it also commits
from what it computed. The steps that follow compute only

* ``prefix``: the block and everything behind it, against the cached rows before the block;
* ``dual``: the block, against the cached rows before and behind it.

Differences from the authors' code, none of which changes a committed token: keys are cached after
RoPE (positions never change), rows are overwritten in place instead of concatenated, a block that
its first step completes costs no further forward, and batches are ragged. On Dream the row before
the block, which predicts its first position, is computed along; the authors' code instead commits
that position at once from the first step and leaves the row out.
"""

from __future__ import annotations

from dataclasses import dataclass

from dlmcache_cuda.policies.base import (
    CachePolicy,
    PolicyConfig,
    SlotPlan,
    SlotView,
    check_interval,
)
from dlmcache_cuda.policies.registry import register_policy


@dataclass(frozen=True, slots=True)
class BlockCacheConfig(PolicyConfig):
    """Settings of both block caches.

    Args:
        refresh_steps: steps of a block from one computation of the whole canvas to the next.
            None (Fast-dLLM): only at the start of a block. 1: at every step, which is vanilla.
    """

    refresh_steps: int | None = None

    def __post_init__(self) -> None:
        check_interval("refresh_steps", self.refresh_steps, optional=True)


@dataclass(frozen=True, slots=True)
class PrefixConfig(BlockCacheConfig):
    """Settings of the prefix cache; see :class:`BlockCacheConfig`."""


@dataclass(frozen=True, slots=True)
class DualConfig(BlockCacheConfig):
    """Settings of the dual cache; see :class:`BlockCacheConfig`."""


def is_refresh(view: SlotView, refresh_steps: int | None) -> bool:
    """Whether the whole canvas is due: at the start of a block, then every ``refresh_steps``."""
    if refresh_steps is None:
        return view.step_in_block == 0
    return view.step_in_block % refresh_steps == 0


@register_policy("prefix")
class Prefix(CachePolicy):
    """Caches the rows before the block (Fast-dLLM, prefix cache)."""

    Config = PrefixConfig

    def plan_slot(self, view: SlotView) -> SlotPlan:
        refresh = is_refresh(view, self.config.refresh_steps)
        return SlotPlan(0 if refresh else view.block_begin - view.shift, view.length, refresh)

    @classmethod
    def exact_config(cls) -> PrefixConfig:
        return PrefixConfig(refresh_steps=1)


@register_policy("dual")
class Dual(CachePolicy):
    """Caches the rows before and behind the block (Fast-dLLM, dual cache)."""

    Config = DualConfig

    def plan_slot(self, view: SlotView) -> SlotPlan:
        if is_refresh(view, self.config.refresh_steps):
            return SlotPlan(0, view.length, refresh=True)
        return SlotPlan(view.block_begin - view.shift, view.block_end, refresh=False)

    @classmethod
    def exact_config(cls) -> DualConfig:
        return DualConfig(refresh_steps=1)
