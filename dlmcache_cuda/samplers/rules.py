"""Commit rules: how many of the candidates of a step become final.

A rule is what ``ops.commit_`` needs (``code``, ``value``) and what the loop asks per slot and step
(``num_commit``, ``is_over``). The rules themselves are in the operator; see
``docs/operators/commit.md``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

from dlmcache_cuda.samplers.schedule import (
    num_dream_tokens,
    num_transfer_tokens,
    transfer_share,
)

# Origin's probabilities travel as whole numbers of this unit, which float64 holds exactly.
SHARE_UNIT = 2.0**-53


class CommitRule(ABC):
    """Decides how many candidates of a slot are committed at a step."""

    code: ClassVar[int]  # the rule's number in ops.commit_
    ranked: ClassVar[bool] = False  # ranks by any score, not only by confidence
    leaves_masks: ClassVar[bool] = False  # the mask as a token means: not at this step

    @property
    def value(self) -> float:
        """``rule_value`` of ``ops.commit_``."""
        return 0.0

    @abstractmethod
    def num_commit(self, step_in_block: int, block_masks: int, masks_left: int) -> int:
        """Commits due at a step of a block; 0 is a step that commits nothing.

        Args:
            step_in_block: counts from 0.
            block_masks: masks of the block when it began.
            masks_left: masks of the block now.
        """

    def num_due(self, step_in_block: int, block_masks: int, masks_left: int) -> int:
        """What policies are told of :meth:`num_commit`: how many commits are certain."""
        return self.num_commit(step_in_block, block_masks, masks_left)

    def is_over(self, step_in_block: int, block_masks: int) -> bool:
        """Whether a block that had ``block_masks`` masks ends before this step, come what may."""
        return False

    @property
    def bounded(self) -> bool:
        """True when the number of steps of a block is fixed, whatever is predicted."""
        return False

    def over_steps(self, steps_per_block: int | None) -> CommitRule:
        """The rule with another number of steps per block, where it has one."""
        return self


class Scheduled(CommitRule):
    """A rule whose blocks take a fixed number of steps, ``steps_per_block``."""

    steps_per_block: int | None

    @property
    def bounded(self) -> bool:
        return True

    def over_steps(self, steps_per_block: int | None) -> CommitRule:
        return replace(self, steps_per_block=steps_per_block)

    def steps(self, block_masks: int) -> int:
        """Steps of a block that began with so many masks."""
        return block_masks if self.steps_per_block is None else self.steps_per_block


@dataclass(frozen=True, slots=True)
class FixedK(Scheduled):
    """A fixed number of commits per step, the most confident first.

    Args:
        steps_per_block: steps over which the masks of a block are spread; None: one step per mask.

    Source: LLaDA reference decoding.
    """

    steps_per_block: int | None
    code: ClassVar[int] = 0
    ranked: ClassVar[bool] = True

    def num_commit(self, step_in_block: int, block_masks: int, masks_left: int) -> int:
        steps = self.steps(block_masks)
        if step_in_block >= steps:
            return 0
        return num_transfer_tokens(block_masks, steps, step_in_block)

    def is_over(self, step_in_block: int, block_masks: int) -> bool:
        # The remainder comes first, so that no commit is due behind a step without any.
        return self.num_commit(step_in_block, block_masks, 0) == 0


@dataclass(frozen=True, slots=True)
class DreamSchedule(Scheduled):
    """Dream's schedule: of the masks left, the share of the remaining time that a step takes.

    Time runs evenly from 1 to 1e-3 over the steps; the last step commits all that is left. The
    number is rounded down, so a step may commit nothing.

    Args:
        steps_per_block: steps over which the masks of a block are spread; None: one step per mask.
        min_commit: commits of a step at least; 0 is Dream's code, 1 that of SPA-Cache for Dream.

    Source: Dream's ``generation_utils.py``, ``_sample``.
    """

    steps_per_block: int | None
    min_commit: int = 0
    code: ClassVar[int] = 0
    ranked: ClassVar[bool] = True

    def num_commit(self, step_in_block: int, block_masks: int, masks_left: int) -> int:
        number = num_dream_tokens(masks_left, self.steps(block_masks), step_in_block)
        return max(number, self.min_commit)

    def is_over(self, step_in_block: int, block_masks: int) -> bool:
        return step_in_block >= self.steps(block_masks)


@dataclass(frozen=True, slots=True)
class Origin(Scheduled):
    """Dream's ``origin``: a step commits every candidate with the same probability.

    The probability is the share of the remaining time that the step takes, as in
    :class:`DreamSchedule`; the last step commits all that is left. The draws are the sampler's; for
    ``ops.commit_`` all candidates are due.

    Args:
        steps_per_block: steps over which the masks of a block are spread; None: one step per mask.

    Source: Dream's ``generation_utils.py``, ``_sample``.
    """

    steps_per_block: int | None
    code: ClassVar[int] = 0
    leaves_masks: ClassVar[bool] = True

    def num_commit(self, step_in_block: int, block_masks: int, masks_left: int) -> int:
        """The probability in units of 2^-53; above the number of candidates of any step."""
        return int(transfer_share(self.steps(block_masks), step_in_block) / SHARE_UNIT)

    def num_due(self, step_in_block: int, block_masks: int, masks_left: int) -> int:
        return masks_left if step_in_block >= self.steps(block_masks) - 1 else 0

    def is_over(self, step_in_block: int, block_masks: int) -> bool:
        return step_in_block >= self.steps(block_masks)


@dataclass(frozen=True, slots=True)
class Threshold(CommitRule):
    """Every candidate at least this confident, and always the most confident one.

    Args:
        threshold: confidence in (0, 1]. At 1 that is the most confident token alone, or all that
            are certain.

    Source: Fast-dLLM (arXiv 2505.22618), section 3.3.
    """

    threshold: float
    code: ClassVar[int] = 1

    @property
    def value(self) -> float:
        return math.log(self.threshold)

    def num_commit(self, step_in_block: int, block_masks: int, masks_left: int) -> int:
        return 1


@dataclass(frozen=True, slots=True)
class Factor(CommitRule):
    """The longest prefix, by confidence, of n candidates with ``(n + 1) (1 - c_n) < factor``.

    Args:
        factor: positive; larger commits more. At least one candidate is always committed.

    Source: Fast-dLLM (arXiv 2505.22618), theorem 1 and its factor strategy.
    """

    factor: float
    code: ClassVar[int] = 2

    @property
    def value(self) -> float:
        return self.factor

    def num_commit(self, step_in_block: int, block_masks: int, masks_left: int) -> int:
        return 1
