"""d2Cache (arXiv 2509.23094): certainty density picks masks, attention rollout picks the rest.

A step computes the ``current_k`` masks of largest cached confidence times certainty density, the
tokens just committed, and the rows on which most of the attention rolled out over all layers lands
(``rollout_p`` of its mass). There is no periodic refresh. Tokens are ranked by confidence times
density (certainty prior).

Different from the authors' code: the cached confidences are updated at every step (there an
operator precedence keeps the first step's forever); a block stays the block instead of shrinking to
its masks; batches are ragged, so no rows are added to make all sequences equally long. Attention
rollout is propagated as one row vector from the last layer down, which gives the same column sums
without products of N x N matrices; the density is a direct sum instead of an FFT.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dlmcache_cuda import ops
from dlmcache_cuda.policies.base import (
    CachePolicy,
    Frame,
    PolicyConfig,
    SlotColumns,
    SlotPlan,
    SlotView,
    StepPlan,
    StepResult,
    StepView,
    check_flag,
    check_integer,
    check_interval,
    check_number,
    is_due,
)
from dlmcache_cuda.policies.registry import register_policy
from dlmcache_cuda.policies.stack_spec import StackSpec


@dataclass(frozen=True, slots=True)
class D2Config(PolicyConfig):
    """Settings of d2Cache.

    Args:
        current_k: masks computed at every step. Default: 32.
        rollout_p: mass of the attention rollout whose rows are computed; at least one row is.
            Default: 0.1.
        sigma: width of the Gaussian of the certainty density, in positions. Default: 10.
        inflate_w: gaps between computed rows at most this far apart are filled. Default: 0; the
            authors use 4 with blocks or parallel commits.
        certainty_prior: rank commits by confidence times density; False: by confidence.
        refresh_steps: recompute everything every so many steps. None (the paper): never; 1 with
            ``certainty_prior=False`` is vanilla.
    """

    current_k: int = 32
    rollout_p: float = 0.1
    sigma: float = 10.0
    inflate_w: int = 0
    certainty_prior: bool = True
    refresh_steps: int | None = None

    def __post_init__(self) -> None:
        check_interval("current_k", self.current_k)
        check_number("rollout_p", self.rollout_p, 0, 1)
        check_number("sigma", self.sigma, 1e-3, 1e6)
        check_integer("inflate_w", self.inflate_w, 0)
        check_flag("certainty_prior", self.certainty_prior)
        check_interval("refresh_steps", self.refresh_steps, optional=True)


@register_policy("d2")
class D2(CachePolicy):
    """Computes certain masks, fresh tokens and what attention flows to (d2Cache)."""

    Config = D2Config
    follows_any_order = False
    head_scope = "all"

    @property
    def ranks(self) -> bool:
        return self.config.certainty_prior

    def stack_spec(self, n_layers: int) -> StackSpec:
        return StackSpec(rollout=True)

    def attach(self, frame: Frame) -> None:
        super().attach(frame)
        rows = frame.num_slots * frame.capacity
        self._log_confidence = torch.full((rows + 1,), -torch.inf, device=frame.device)
        self._newly = frame.flags()
        self._importance = torch.zeros(rows, device=frame.device)
        self._positions = torch.arange(frame.capacity, device=frame.device)

    def enter(self, slot: int) -> None:
        capacity = self.frame.capacity
        self._log_confidence[slot * capacity : (slot + 1) * capacity] = -torch.inf

    def plan_slot(self, view: SlotView) -> SlotPlan:
        refresh = is_due(view.step, self.config.refresh_steps)
        return SlotPlan(0, view.length, refresh, marked=not refresh)

    def expected_rows(self, view: SlotView, plan: SlotPlan) -> int:
        if view.rows_before is not None:
            return view.rows_before + view.rows_before // 8 + 4
        # Largest first, so many rows hold rollout_p of the mass at most.
        important = int(self.config.rollout_p * view.length) + 1
        rows = min(self.config.current_k, view.masks_to_end) + sum(view.commits[-1:]) + important
        return rows * max(self.config.inflate_w, 1)

    def mark(self, step: StepView, plan: StepPlan) -> None:
        if any(slot.marked for slot in plan.slots):
            plan.marks = self.frame.twinned(self._marks(step))

    def _marks(self, step: StepView) -> Tensor:
        frame, columns = self.frame, step.columns
        certain = self._certain_masks(step.masked, columns)
        if frame.shift:
            certain = certain.view(frame.num_slots, -1).roll(-frame.shift, dims=1).flatten()
        marks = certain | self._newly
        marks = marks | self._important(~marks, columns.length)
        return self._inflated(marks) if self.config.inflate_w else marks

    def _certain_masks(self, masked: Tensor, columns: SlotColumns) -> Tensor:
        """The ``current_k`` masks of largest confidence times density, the block's first."""
        frame, k = self.frame, self.config.current_k
        begin, end = columns.prompt_length, columns.length
        block_begin, block_end = columns.block_begin, columns.block_end
        block_length = (block_end - block_begin).clamp(min=1)
        score = self._log_confidence[:-1] + self._log_density(masked, begin, end)
        counts = masked.view(frame.num_slots, -1).cumsum(1)
        reached = counts >= k
        kth = torch.where(reached.any(1), reached.int().argmax(1), end - 1)
        search_end = begin + ((kth - begin) // block_length + 1) * block_length
        position = self._positions
        inside = (position >= block_begin[:, None]) & (position < block_end[:, None])
        behind = (position >= block_end[:, None]) & (position < search_end[:, None])
        chosen = torch.zeros(masked.numel() + 1, dtype=torch.bool, device=masked.device)
        left = torch.full_like(begin, k)
        zero, capacity = torch.zeros_like(begin), torch.full_like(begin, frame.capacity)
        for region in (inside, behind):
            flags = masked & region.flatten()
            rows, cu_rows = ops.build_rows(
                zero, capacity, frame.capacity, masked.numel(), flags=flags
            )
            scores = ops.gather_rows(score, rows)
            picked = ops.select_rows(scores, rows, cu_rows, left, frame.num_slots * k)[0]
            chosen.index_fill_(0, picked, True)
            left = (left - cu_rows.diff()).clamp_(min=0)
        return chosen[:-1]

    def _important(self, free: Tensor, lengths: Tensor) -> Tensor:
        """Rows of largest importance up to ``rollout_p`` of the mass of all free rows."""
        frame = self.frame
        free = free.view(frame.num_slots, -1) & (self._positions < lengths[:, None])
        importance = self._importance.view(free.shape).masked_fill(~free, -1.0)
        ordered, order = importance.sort(dim=1, descending=True, stable=True)
        mass = ordered.clamp(min=0)
        share = mass.cumsum(1) / mass.sum(1, keepdim=True)
        taken = share <= self.config.rollout_p
        taken[:, 0].fill_(True)
        taken &= ordered >= 0
        return torch.zeros_like(free).scatter_(1, order, taken).flatten()

    def _inflated(self, marks: Tensor) -> Tensor:
        """Fills gaps between marked rows at most ``inflate_w`` apart."""
        frame = self.frame
        rows = marks.view(frame.num_slots, -1)
        far = frame.capacity + self.config.inflate_w + 1
        positions = self._positions.expand_as(rows)
        before = positions.masked_fill(~rows, -far).cummax(1).values
        behind = positions.masked_fill(~rows, 2 * far).flip(1).cummin(1).values.flip(1)
        return (rows | (behind - before <= self.config.inflate_w)).flatten()

    def _log_density(self, masked: Tensor, begin: Tensor, end: Tensor) -> Tensor:
        return ops.density(~masked, begin, end, self.frame.capacity, self.config.sigma).log()

    def score(self, step: StepView, candidates: Tensor, log_confidence: Tensor) -> Tensor | None:
        if not self.config.certainty_prior:
            return None
        columns = step.columns
        density = self._log_density(step.masked, columns.prompt_length, columns.length)
        return log_confidence + ops.gather_rows(density, candidates)

    def after_commit(self, result: StepResult) -> None:
        # Entry -1 takes the unused candidates.
        log_confidence = self._log_confidence.clone()
        log_confidence[result.candidates] = result.log_confidence
        result.keep(self._log_confidence[:-1], log_confidence[:-1])
        result.keep(self._newly, result.newly)
        result.keep(self._importance, result.importance[: self._importance.numel()])

    @classmethod
    def exact_config(cls) -> D2Config:
        return D2Config(refresh_steps=1, certainty_prior=False)
