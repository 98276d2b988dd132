"""The contract of a cache policy: which rows of each sequence are computed at a step.

A policy decides; it does no tensor arithmetic. For every slot it is given a :class:`SlotView` and
answers with a :class:`SlotPlan`. What it decides for a slot depends on that slot alone, so a
sequence decodes to the same tokens whatever else is in the batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class SlotView:
    """What a policy may know of a slot before a step. Positions count from the canvas' start."""

    prompt_length: int  # P: the generation region is [P, length)
    length: int  # N = P + G
    block_begin: int  # the block in which tokens may be committed now
    block_end: int
    step: int  # forwards that this sequence has had
    step_in_block: int  # forwards since the block began


@dataclass(frozen=True, slots=True)
class SlotPlan:
    """The rows of a slot that enter the network at a step: positions ``[begin, end)``.

    All other positions are present through their cached keys and values. ``refresh`` tells the
    statistics that cached rows were recomputed.
    """

    begin: int
    end: int
    refresh: bool


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """Settings of a policy; a subclass adds its fields. Pass one as ``decode(cache=...)``."""


class CachePolicy(ABC):
    """Base of all policies. One object serves one decoder; per-sequence state is keyed by slot."""

    name: ClassVar[str]
    Config: ClassVar[type[PolicyConfig]]

    def __init__(self, config: Any) -> None:
        self.config = config

    @abstractmethod
    def plan_slot(self, view: SlotView) -> SlotPlan:
        """The rows that a sequence computes at its next step.

        The first step of a sequence (``view.step == 0``) must cover the whole canvas: nothing is
        cached yet. The masked positions of the block must always be covered.
        """

    @classmethod
    @abstractmethod
    def exact_config(cls) -> PolicyConfig:
        """Settings under which every decoded token equals vanilla's."""
