"""Commit rules: how many of the candidates of a step become final.

A rule is what ``ops.commit_`` needs (``code``, ``value``) and what the loop asks per slot and step
(``num_commit``). The rules themselves are in the operator; see ``docs/operators/commit.md``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from dlmcache_cuda.samplers.schedule import num_transfer_tokens


class CommitRule(ABC):
    """Decides how many candidates of a slot are committed at a step."""

    code: ClassVar[int]  # the rule's number in ops.commit_

    ranked: ClassVar[bool] = False  # ranks by any score, not only by confidence

    @property
    def value(self) -> float:
        """``rule_value`` of ``ops.commit_``."""
        return 0.0

    @abstractmethod
    def num_commit(self, step_in_block: int, block_masks: int) -> int:
        """Commits due at a step of a block that had ``block_masks`` masks at its start.

        0 means that the block has no further step.
        """

    def is_over(self, step_in_block: int, block_masks: int) -> bool:
        """Whether a block has no further step, whatever is left in it."""
        return self.num_commit(step_in_block, block_masks) == 0

    @property
    def bounded(self) -> bool:
        """True when the number of steps of a block is fixed, whatever is predicted."""
        return False


@dataclass(frozen=True, slots=True)
class FixedK(CommitRule):
    """A fixed number of commits per step, the most confident first.

    Args:
        steps_per_block: steps over which the masks of a block are spread.

    Source: LLaDA reference decoding.
    """

    steps_per_block: int
    code: ClassVar[int] = 0
    ranked: ClassVar[bool] = True

    def num_commit(self, step_in_block: int, block_masks: int) -> int:
        if step_in_block >= self.steps_per_block:
            return 0
        return num_transfer_tokens(block_masks, self.steps_per_block, step_in_block)

    @property
    def bounded(self) -> bool:
        return True


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

    def num_commit(self, step_in_block: int, block_masks: int) -> int:
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

    def num_commit(self, step_in_block: int, block_masks: int) -> int:
        return 1
