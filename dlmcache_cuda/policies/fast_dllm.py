"""Fast-dLLM's block caches (arXiv 2505.22618, section 3.2).

The first step of a block computes the whole canvas and caches all keys and values; it also commits
from what it computed. The steps that follow compute only

* ``prefix``: the block and everything behind it, against the cached rows before the block;
* ``dual``: the block, against the cached rows before and behind it.

Differences from the authors' code, none of which changes a committed token: keys are cached after
RoPE (positions never change), rows are overwritten in place instead of concatenated, a block that
its first step completes costs no further forward, and batches are ragged.

On Dream, where the row before the block predicts its first position, the authors' code commits that
one position from the first step of a block and leaves its predicting row out of the others. With
``first_token=False`` the first step commits like any other, and the row stays computed while its
position is masked.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch

from dlmcache_cuda.policies.base import (
    CachePolicy,
    PolicyConfig,
    SlotPlan,
    SlotView,
    StepPlan,
    StepView,
    check_flag,
    check_interval,
)
from dlmcache_cuda.policies.registry import register_policy


@dataclass(frozen=True, slots=True)
class BlockCacheConfig(PolicyConfig):
    """Settings of both block caches.

    Args:
        refresh_steps: steps of a block from one computation of the whole canvas to the next.
            None (Fast-dLLM): only at the start of a block. 1: at every step, which is vanilla.
        first_token: on Dream the first step of a block commits its first position only (the
            authors' code), if the schedule asks for no more than one. Without effect on LLaDA.
    """

    refresh_steps: int | None = None
    first_token: bool = True

    def __post_init__(self) -> None:
        check_interval("refresh_steps", self.refresh_steps, optional=True)
        check_flag("first_token", self.first_token)


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


class BlockCache(CachePolicy, ABC):
    """What both have in common."""

    def mark(self, step: StepView, plan: StepPlan) -> None:
        if self.frame.shift == 0:
            return
        # The row before a block is computed while the position that it predicts is masked.
        columns = step.columns
        first = self.frame.first_rows
        marks = torch.ones_like(step.masked)
        needed = step.masked[first + columns.block_begin] | (columns.marked == 0)
        marks[first + (columns.block_begin - 1).clamp(min=0)] = needed
        plan.marks = self.frame.twinned(marks)

    def plan_slot(self, view: SlotView) -> SlotPlan:
        if is_refresh(view, self.config.refresh_steps):
            alone = self.config.first_token and self.config.refresh_steps is None
            first = alone and view.shift > 0 and view.num_commit == 1
            window = 1 if first else None
            return SlotPlan(0, view.length, refresh=True, window=window, block_only=first)
        begin, end = self.cached_range(view)
        return SlotPlan(begin - view.shift, end, refresh=False, marked=view.shift > 0)

    @abstractmethod
    def cached_range(self, view: SlotView) -> tuple[int, int]:
        """Positions computed at the steps of a block that reuse the cache."""


@register_policy("prefix")
class Prefix(BlockCache):
    """Caches the rows before the block (Fast-dLLM, prefix cache)."""

    Config = PrefixConfig

    def cached_range(self, view: SlotView) -> tuple[int, int]:
        return view.block_begin, view.length

    @classmethod
    def exact_config(cls) -> PrefixConfig:
        return PrefixConfig(refresh_steps=1)


@register_policy("dual")
class Dual(BlockCache):
    """Caches the rows before and behind the block (Fast-dLLM, dual cache)."""

    Config = DualConfig

    def cached_range(self, view: SlotView) -> tuple[int, int]:
        return view.block_begin, view.block_end

    @classmethod
    def exact_config(cls) -> DualConfig:
        return DualConfig(refresh_steps=1)
