"""What the host knows of the sequence in a slot."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from itertools import accumulate

from torch import Tensor

from dlmcache_cuda.decoding.regions import Region
from dlmcache_cuda.decoding.trace import StepTrace
from dlmcache_cuda.policies import SlotPlan, SlotView
from dlmcache_cuda.samplers import CommitRule
from dlmcache_cuda.samplers.rules import Scheduled

# A step that commits nothing leaves the canvas as it was, so without noise the next one predicts
# the same; a few more are granted because a refresh or noise may still change the prediction.
MAX_STALLED_STEPS = 4


@dataclass(frozen=True, slots=True)
class SlotStatus:
    """What ``ops.commit_`` reports of a slot, by name (``docs/operators/commit.md``)."""

    committed: int
    block_masks: int
    open_masks: int
    first_end: int
    invalid: int


@dataclass(frozen=True, slots=True)
class Cut:
    """Where a sequence ends from now on, and the masks that are left before that."""

    end: int
    """Behind the last position that will be decoded."""
    masks_behind: int
    """In ``[prompt_length, block_begin)``."""
    block_masks: int
    """In the block."""
    masks: int
    """In ``[prompt_length, end)``."""


@dataclass(slots=True)
class Slot:
    """Progress of one sequence; positions count from the start of its canvas."""

    sequence: int
    prompt_ids: Tensor
    seed: int
    region: Region
    block_length: int
    rule: CommitRule
    shift: int = 0
    end: int = field(init=False)  # behind the last position that will be decoded
    was_cut: bool = False  # an end of text has been committed that ends the sequence there
    block_begin: int = field(init=False)
    block_masks: int = field(init=False)  # masks of the block when it began
    masks_left: int = field(init=False)  # masks of the block now
    masks_to_end: int = field(init=False)  # masks in [prompt_length, end)
    masks_behind: int = 0  # masks that earlier blocks left, where the mask id itself was predicted
    step: int = 0
    step_in_block: int = 0
    stalled: int = 0
    computed: int = 0  # rows computed, summed over layers
    refreshes: int = 0
    commits: list[int] = field(default_factory=list)  # of each step so far
    order: list[int] = field(default_factory=list)  # random order: the block's positions
    masks: tuple[int, ...] = ()  # random order: the positions that are masks
    rows_before: int | None = None  # rows of the last marked step, where they are expected
    trace: list[StepTrace] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.end = self.length
        self.masks_to_end = self.region.num_masks(self.prompt_length, self.length)
        self._begin_block(self.prompt_length)

    @property
    def prompt_length(self) -> int:
        return self.region.begin

    @property
    def length(self) -> int:
        return self.region.end

    @property
    def block_end(self) -> int:
        return min(self.block_begin + self.block_length, self.end)

    @property
    def block(self) -> int:
        """Number of the block, from 0."""
        return (self.block_begin - self.prompt_length) // self.block_length

    @property
    def num_commit(self) -> int:
        """Commits due at the next step."""
        return self.rule.num_commit(self.step_in_block, self.block_masks, self.masks_left)

    def candidates_begin(self, plan: SlotPlan) -> int:
        """First position that may be committed at the next step.

        As in LLaDA's and Fast-dLLM's code, masks that earlier blocks left behind are candidates
        like those of the block, wherever their rows are computed, unless the plan leaves them out.
        A plan that starts inside the generation region starts at the block.
        """
        shift = 0 if plan.slice_shift else self.shift
        before = max(self.prompt_length - shift, 0)
        if plan.block_only or plan.begin > before:
            return self.block_begin
        return self.prompt_length

    def num_candidates(self, plan: SlotPlan) -> int:
        """Masks in [candidates_begin, block_end)."""
        behind = self.masks_behind if self.candidates_begin(plan) == self.prompt_length else 0
        return behind + self.masks_left

    def due(self, step_in_block: int) -> tuple[int, ...]:
        """Random order: the positions that a step of the block commits."""
        if not self.order or step_in_block < 0:
            return ()
        turns = _turns(self.rule, self.block_masks)
        turn = self.order[turns[step_in_block] : turns[step_in_block + 1]]
        # an early end leaves out what lies behind it
        return tuple(p for p in turn if p < self.end)

    def view(self) -> SlotView:
        return SlotView(
            prompt_length=self.prompt_length,
            length=self.length,
            block_begin=self.block_begin,
            block_end=self.block_end,
            step=self.step,
            step_in_block=self.step_in_block,
            shift=self.shift,
            num_commit=self.rule.num_due(self.step_in_block, self.block_masks, self.masks_left),
            num_masks=self.masks_behind + self.masks_left,
            end=self.end,
            masks_to_end=self.masks_to_end,
            commits=self.commits,
            due=self.due(self.step_in_block),
            due_before=self.due(self.step_in_block - 1),
            masks=self.masks,
            rows_before=self.rows_before,
        )

    def advance(self, status: SlotStatus, stop_at_eos: bool, cut: Cut | None = None) -> str | None:
        """Takes one step into account; returns why the sequence ended with it, or None."""
        self.step += 1
        self.step_in_block += 1
        self.masks_behind += self.masks_left - status.block_masks - status.committed
        self.masks_left = status.block_masks
        self.masks_to_end -= status.committed
        self.commits.append(status.committed)
        if cut is not None:
            self.was_cut = True
            self.end = cut.end
            self.masks_behind, self.masks_left = cut.masks_behind, cut.block_masks
            self.masks_to_end = cut.masks
        self.stalled = 0 if status.committed else self.stalled + 1
        if stop_at_eos and status.first_end < self.length and status.open_masks == 0:
            return "end_of_text"
        if self.masks_left == 0 or self.rule.is_over(self.step_in_block, self.block_masks):
            self.masks_behind += self.masks_left
            if not self._begin_block(self.block_end):
                return "length" if self.end == self.length else "end_of_text"
        elif not self.rule.bounded and self.stalled >= MAX_STALLED_STEPS:
            return "stalled"
        return None

    def _begin_block(self, begin: int) -> bool:
        """Goes on with the first block from ``begin`` on that holds masks; False: there is none."""
        while begin < self.end:
            self.block_begin = begin
            # Nothing behind the current block is ever committed: its masks are those of the start.
            self.block_masks = self.masks_left = self.region.num_masks(begin, self.block_end)
            self.step_in_block = 0
            self.order = []
            if self.block_masks:
                return True
            begin = self.block_end
        return False


@functools.lru_cache(maxsize=64)
def _turns(rule: Scheduled, masks: int) -> tuple[int, ...]:
    """For rules of fixed numbers, by step: where its turn begins in the order of a block that began
    with so many masks; then where the last one ends."""
    # How many masks are left makes no difference.
    numbers = (rule.num_commit(step, masks, masks) for step in range(rule.steps(masks)))
    return tuple(accumulate(numbers, initial=0))
