"""Elastic-Cache (arXiv 2510.14973): refresh when and from where the attention drifts.

A step computes the leftmost ``window_length`` masks, the tokens just committed and, in every layer,
the most-attended decoded token(s) found by the step before. While the attention of those tracked
rows stays what it was, everything else comes from the cache. In the first layer where it drifts
(similarity below ``gamma``) reuse ends: all layers above recompute the whole canvas, starting from
the cached inputs of the layer.

Where paper and code differ this is the code: the window of the *current* step enters (paper: of the
step before); the similarity is the mean over keys of the cosine over heads (``similarity="heads"``;
paper: the cosine of the attention rows, ``"rows"``); no blocks of distant masks; once a layer has
triggered, no layer above is tested. Different from the code: batches, with a boundary for each
sequence; no cache of queries (the old ones follow from the cached inputs) and no copy of the key
cache; with ``block_length`` shorter than ``gen_length`` the window stays inside the block.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dlmcache_cuda.cache import RowList
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
    check_flag,
    check_interval,
    check_number,
    is_due,
)
from dlmcache_cuda.policies.registry import register_policy
from dlmcache_cuda.policies.stack_spec import StackSpec, TrackingSpec

SIMILARITIES = ("heads", "rows")


@dataclass(frozen=True, slots=True)
class ElasticConfig(PolicyConfig):
    """Settings of Elastic-Cache.

    Args:
        gamma: similarity below which a layer triggers the recomputation of those above it.
            Default: 0.9; the authors use 0.98 for Dream on HumanEval, 0.7 for LLaDA-V. -1: never.
        window_length: leftmost masks computed at every step, of which tokens are committed.
            Default: 16; None: all masks of the block.
        track_num: most-attended tokens followed per layer. Default: 1.
        block_caching: False: all masks are computed at every step; the window only limits commits.
        similarity: ``heads`` (the authors' code) or ``rows`` (the paper).
        eos_cut: decode nothing behind the first end of text that is committed.
        refresh_steps: recompute everything every so many steps whatever the drift. None: never;
            1 is vanilla.
        mask_is_final: where the mask itself is predicted the position counts as decoded and stays a
            mask (the authors' code); False: it stays a candidate, as in LLaDA's code.
    """

    gamma: float = 0.9
    window_length: int | None = 16
    track_num: int = 1
    block_caching: bool = True
    similarity: str = "heads"
    eos_cut: bool = True
    refresh_steps: int | None = None
    mask_is_final: bool = True

    def __post_init__(self) -> None:
        check_number("gamma", self.gamma, -1e6, 1e6)
        check_tracking(self)


def check_tracking(config) -> None:
    """Checks what this policy and ``composed`` share."""
    check_interval("window_length", config.window_length, optional=True)
    check_interval("track_num", config.track_num)
    check_flag("block_caching", config.block_caching)
    check_choice("similarity", config.similarity, SIMILARITIES)
    check_flag("eos_cut", config.eos_cut)
    check_interval("refresh_steps", config.refresh_steps, optional=True)
    check_flag("mask_is_final", config.mask_is_final)


@register_policy("elastic")
class Elastic(CachePolicy):
    """Recomputes from the layer on at which the attention of tracked tokens drifts."""

    Config = ElasticConfig
    follows_any_order = False

    @property
    def cuts_at_eos(self) -> bool:
        return self.config.eos_cut

    @property
    def mask_is_final(self) -> bool:
        return self.config.mask_is_final

    def stack_spec(self, n_layers: int) -> StackSpec:
        config = self.config
        return StackSpec(tracking=TrackingSpec(config.track_num, config.gamma, config.similarity))

    def attach(self, frame: Frame) -> None:
        super().attach(frame)
        rows, device = frame.network_slots * frame.capacity, frame.device
        # What is computed besides the window. The last entry is always False: in a copy it takes
        # the unused places of the window.
        self._kept = torch.zeros(rows + 1, dtype=torch.bool, device=device)
        self._kept_rows = self._kept[:-1]
        self._limit: Tensor | None = None
        if self.config.block_caching and self.config.window_length is not None:
            slots, limit = frame.network_slots, self.config.window_length
            self._limit = torch.full((slots,), limit, dtype=torch.int64, device=device)

    def plan(self, step: StepView) -> StepPlan:
        plan = super().plan(step)
        copies = self.frame.network_slots // self.frame.num_slots
        plan.window_rows = copies * sum(self._window_rows(v) for v in step.slots if v is not None)
        return plan

    def mark(self, step: StepView, plan: StepPlan) -> None:
        plan.window = self._window(step, plan.window_rows)
        marks = self._kept.index_fill(0, plan.window.row_index, True)
        plan.marks = marks[:-1]

    def max_rows(self, view: SlotView, plan: SlotPlan) -> int:
        tracked = self.frame.n_layers * self.config.track_num
        rows = self._window_rows(view) + tracked + self._max_fresh(view)
        return min(rows, plan.end - plan.begin)

    def _max_fresh(self, view: SlotView) -> int:
        """Committed positions that are computed once more, at most."""
        return sum(view.commits[-1:])

    def plan_slot(self, view: SlotView) -> SlotPlan:
        window = self.config.window_length
        if is_due(view.step, self.config.refresh_steps):
            return SlotPlan(0, view.length, refresh=True, window=window)
        return SlotPlan(0, view.length, refresh=False, marked=True, window=window, tested=True)

    def _window_rows(self, view: SlotView) -> int:
        """Masks in the window."""
        if not self.config.block_caching:
            return view.masks_to_end
        limit = self.config.window_length
        return view.num_masks if limit is None else min(view.num_masks, limit)

    def _window(self, step: StepView, max_rows: int) -> RowList:
        """The rows that predict the masks of the window, of all slots of the network."""
        frame, columns = self.frame, step.columns
        masks = RowList.from_bounds(
            frame.twinned(columns.prompt_length),
            frame.twinned(columns.block_end if self.config.block_caching else columns.end),
            frame.capacity,
            max_rows,
            flags=frame.twinned(step.masked),
            limit=self._limit,
        )
        return masks.shifted(frame.shift)

    def _newly(self, result: StepResult) -> Tensor:
        """Committed positions that are computed once more."""
        return result.newly

    def after_commit(self, result: StepResult) -> None:
        kept = result.tracked | self.frame.twinned(self._newly(result))
        result.keep(self._kept_rows, kept)

    @classmethod
    def exact_config(cls) -> ElasticConfig:
        return ElasticConfig(
            refresh_steps=1, window_length=None, eos_cut=False, mask_is_final=False
        )
