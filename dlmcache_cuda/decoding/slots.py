"""What the host knows of the sequence in a slot."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from dlmcache_cuda.policies import SlotPlan, SlotView
from dlmcache_cuda.samplers import CommitRule

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


@dataclass(slots=True)
class Slot:
    """Progress of one sequence; positions count from the start of its canvas."""

    sequence: int
    prompt_ids: Tensor
    seed: int
    length: int
    block_length: int
    rule: CommitRule
    block_begin: int = field(init=False)
    block_masks: int = field(init=False)  # masks of the block when it began
    masks_left: int = field(init=False)  # masks of the block now
    masks_behind: int = 0  # masks that earlier blocks left, where the mask id itself was predicted
    step: int = 0
    step_in_block: int = 0
    stalled: int = 0
    rows: int = 0
    refreshes: int = 0

    def __post_init__(self) -> None:
        self._begin_block(self.prompt_length)

    @property
    def prompt_length(self) -> int:
        return self.prompt_ids.numel()

    @property
    def block_end(self) -> int:
        return self.block_begin + self.block_length

    @property
    def num_commit(self) -> int:
        """Commits due at the next step."""
        return self.rule.num_commit(self.step_in_block, self.block_masks, self.masks_left)

    def candidates_begin(self, plan: SlotPlan) -> int:
        """First position that may be committed at the next step.

        As in LLaDA's and Fast-dLLM's code, masks that earlier blocks left behind are candidates
        like those of the block, wherever their rows are computed. A plan that starts inside the
        generation region starts at the block.
        """
        return self.prompt_length if plan.begin <= self.prompt_length else self.block_begin

    def num_candidates(self, plan: SlotPlan) -> int:
        """Masks in [candidates_begin, block_end)."""
        behind = self.masks_behind if self.candidates_begin(plan) == self.prompt_length else 0
        return behind + self.masks_left

    def view(self) -> SlotView:
        return SlotView(
            self.prompt_length,
            self.length,
            self.block_begin,
            self.block_end,
            self.step,
            self.step_in_block,
        )

    def advance(self, status: SlotStatus, stop_at_eos: bool) -> str | None:
        """Takes one step into account; returns why the sequence ended with it, or None."""
        self.step += 1
        self.step_in_block += 1
        self.masks_behind += self.masks_left - status.block_masks - status.committed
        self.masks_left = status.block_masks
        self.stalled = 0 if status.committed else self.stalled + 1
        if stop_at_eos and status.first_end < self.length and status.open_masks == 0:
            return "end_of_text"
        if self.masks_left == 0 or self.rule.is_over(self.step_in_block, self.block_masks):
            if self.block_end == self.length:
                return "length"
            self.masks_behind += self.masks_left
            self._begin_block(self.block_end)
        elif not self.rule.bounded and self.stalled >= MAX_STALLED_STEPS:
            return "stalled"
        return None

    def _begin_block(self, begin: int) -> None:
        # Nothing behind the current block is ever committed, so a new block is all masks.
        self.block_begin = begin
        self.block_masks = self.masks_left = self.block_length
        self.step_in_block = 0
