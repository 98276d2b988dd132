"""The contract of a cache policy: which rows of each sequence are computed at a step.

A policy decides; arithmetic is the operators'. What it decides for a slot depends on that slot
alone, so a sequence decodes to the same tokens whatever else is in the batch. Simple policies
answer for one slot at a time (:meth:`CachePolicy.plan_slot`). Those that keep marks or rankings on
the device override :meth:`CachePolicy.mark` and :meth:`CachePolicy.after_commit`, which run on the
device without reading it, so that a step can be captured as a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor

from dlmcache_cuda.cache import RowList
from dlmcache_cuda.policies.stack_spec import StackSpec


@dataclass(frozen=True, slots=True)
class SlotView:
    """What a policy may know of a slot before a step. Positions count from the canvas' start."""

    prompt_length: int  # P: the generation region is [P, length)
    length: int  # N = P + G
    block_begin: int  # the block in which tokens may be committed now
    block_end: int
    step: int  # forwards that this sequence has had
    step_in_block: int  # forwards since the block began
    shift: int = 0  # row p - shift predicts position p: 1 for Dream, else 0
    num_commit: int = 1  # commits due at this step (1 for rules without a schedule)
    num_masks: int = 0  # masks in [prompt_length, block_end)
    end: int = -1  # behind the last position that will be decoded; at most length
    masks_to_end: int = 0  # masks in [prompt_length, end)
    commits: Sequence[int] = ()  # commits of each step so far
    due: tuple[int, ...] = ()  # random order: positions committed by this step
    due_before: tuple[int, ...] = ()  # random order: those that the step before was to commit
    masks: tuple[int, ...] = ()  # random order: the positions that are masks, ascending
    rows_before: int | None = None  # rows of the last marked step, for ``expected_rows``

    @property
    def gen_length(self) -> int:
        return self.length - self.prompt_length


@dataclass(frozen=True, slots=True)
class SlotPlan:
    """The rows of a slot that enter the network at a step: positions ``[begin, end)``.

    All other positions are present through their cached keys and values.

    Args:
        begin, end: positions that enter.
        refresh: tells the statistics that cached rows were recomputed.
        marked: only the rows of the range that ``StepPlan.marks`` marks.
        window: only the leftmost so many masks may be committed; None: all.
        block_only: masks that earlier blocks left behind may not be committed.
        slice_shift: on Dream, the first row that enters predicts its own position too.
        sparse: layers compute their budget of the rows only (``StackSpec.selection``).
        tested: layers test the drift of tracked rows (``StackSpec.tracking``).
        rows: with ``marked``, the positions of the range that will be marked, where the host knows
            them: distinct. ``mark`` finds them in ``StepView.listed``. Needs ``lists_rows``.
    """

    begin: int
    end: int
    refresh: bool
    marked: bool = False
    window: int | None = None
    block_only: bool = False
    slice_shift: bool = False
    sparse: bool = False
    tested: bool = False
    rows: tuple[int, ...] | None = None


IDLE = SlotPlan(0, 0, refresh=False)


@dataclass(frozen=True, slots=True)
class SlotColumns:
    """What views and plans say of the slots, on the device: ``[S]`` int64, zeros for free slots."""

    prompt_length: Tensor
    length: Tensor
    block_begin: Tensor
    block_end: Tensor
    end: Tensor
    step: Tensor
    begin: Tensor
    """First position that enters."""
    stop: Tensor
    """Behind the last position that enters."""
    marked: Tensor
    """1 where only marked rows enter."""
    tested: Tensor
    """1 where layers test the drift of tracked rows."""


@dataclass(slots=True)
class StepPlan:
    """What a step computes, for every slot.

    ``S`` slots of the policy, ``M = network_slots * capacity`` rows of the network: with guidance
    every slot has a twin ``S`` places behind it. :meth:`CachePolicy.plan` gives ``slots`` and
    ``window_rows``, :meth:`CachePolicy.mark` the rest.
    """

    slots: list[SlotPlan]
    window_rows: int = 0
    """Rows of ``window`` at most."""
    marks: Tensor | None = None
    """``[M]`` bool: rows of the slots that are planned as ``marked``."""
    forced: Tensor | None = None
    """``[M]`` bool: rows that sparse layers always compute, before the most drifted ones."""
    window: RowList | None = None
    """Rows of the network whose attention decides what is tracked."""


@dataclass(frozen=True, slots=True)
class Frame:
    """The buffers that a policy works with."""

    num_slots: int
    network_slots: int  # twice as many with guidance
    capacity: int
    device: torch.device
    n_layers: int
    shift: int
    end_token_id: int | None  # the first of the model's end tokens

    @property
    def first_rows(self) -> Tensor:
        """``[S]`` int64: the row at which each slot begins."""
        return torch.arange(self.num_slots, device=self.device) * self.capacity

    def flags(self) -> Tensor:
        """``[S * capacity]`` bool, all False."""
        return torch.zeros(self.num_slots * self.capacity, dtype=torch.bool, device=self.device)

    def twinned(self, flags: Tensor) -> Tensor:
        """Marks of the slots for all slots of the network."""
        copies = self.network_slots // self.num_slots
        return flags.repeat(copies) if copies > 1 else flags


@dataclass(slots=True)
class StepView:
    """What a policy may know of all slots before a step; entries of free slots are None."""

    slots: Sequence[SlotView | None]
    masked: Tensor | None = None
    """``[S * capacity]`` bool: masks of the generation regions; None while a step is planned."""
    columns: SlotColumns | None = None
    """The slots' numbers on the device; None while a step is planned."""
    listed: Tensor | None = None
    """``[L]`` int64: the rows that plans list, ``slot * capacity + position``, -1 where unused;
    None while a step is planned."""


@dataclass(slots=True)
class StepResult:
    """What a step did."""

    slots: Sequence[SlotView | None]  # as they were before the step
    plan: StepPlan
    tokens: Tensor
    """``[S * capacity]`` int64, after the commit."""
    masked_before: Tensor
    """``[S * capacity]`` bool: masks of the generation regions before the commit."""
    masked: Tensor
    """The same after the commit."""
    newly: Tensor
    """``[S * capacity]`` bool: positions that the step committed."""
    candidates: Tensor
    """``[Q]`` int64: flat positions that might have been committed; -1 is unused."""
    log_confidence: Tensor
    """``[Q]`` fp32: their confidences."""
    tracked: Tensor | None
    """``[M]`` bool: most-attended rows, where the stack tracks them."""
    importance: Tensor | None
    """``[M]`` fp32: attention rollout, where the stack computes it."""
    done: Tensor | None = None
    """``[S]`` bool: slots whose step is over. The others take no part, or go on with more rows, and
    what is told of them now does not hold. None: all."""

    def keep(self, state: Tensor, new: Tensor) -> None:
        """Renews ``state``, ``[M]`` or ``[S * capacity]``, of the slots that are done."""
        if self.done is not None:
            entries = state.view(-1, self.masked.numel() // self.done.numel())
            copies = len(entries) // self.done.numel()
            new = new.where(self.done.repeat(copies)[:, None].expand_as(entries).flatten(), state)
        state.copy_(new)


@dataclass(frozen=True, slots=True)
class PolicyConfig:
    """Settings of a policy; a subclass adds its fields. Pass one as ``decode(cache=...)``."""


@dataclass(slots=True)
class _Detached:
    """Stands for the frame of a policy that no decoder has attached yet."""

    shift: int = field(default=0)


class CachePolicy:
    """Base of all policies. One object serves one decoder; per-sequence state is keyed by slot."""

    name: ClassVar[str]
    Config: ClassVar[type[PolicyConfig]]
    remasking: ClassVar[str | None] = None
    """The order of commits that the method is defined for; None: any."""
    shifts: ClassVar[tuple[int, ...]] = (0, 1)
    """Models it is defined for: 0 LLaDA, 1 Dream."""
    follows_any_order: ClassVar[bool] = True
    """False: it chooses itself which masks it computes, so no order can be drawn beforehand."""
    ranks: bool = False
    """:meth:`score` ranks the candidates, by their tokens' confidences and more."""
    mask_is_final: bool = False
    """A position for which the mask itself is predicted counts as decoded and stays a mask."""
    cuts_at_eos: bool = False
    """Nothing behind the first committed end of text is decoded."""
    pad_steps: int | None = None
    """Every so many steps, what stands behind the first end token becomes padding."""
    head_scope: str = "block"
    """``all``: every computed mask is predicted at every step, not only the block's."""
    lists_rows: bool = False
    """Plans list rows that the host knows (``SlotPlan.rows``)."""
    may_lack_rows: bool = False
    """The rows that :meth:`mark` marks may predict fewer masks than are to be committed. The step
    is then repeated for the slot with all rows of its range. Not with ``StackSpec.tracking`` or
    ``selection``, whose state a repeated step does not find as it was."""

    decoding: Mapping[str, Any] = MappingProxyType({})
    """Arguments of ``decode`` that the settings were calibrated with, where they were."""

    def __init__(self, config: Any) -> None:
        self.config = config
        self.frame: Any = _Detached()

    def attach(self, frame: Frame) -> None:
        """Called once by the decoder; allocates state."""
        self.frame = frame

    def stack_spec(self, n_layers: int) -> StackSpec:
        """How rows go through the layers."""
        return StackSpec()

    def enter(self, slot: int) -> None:
        """A sequence enters a slot: forget the one before."""

    def plan(self, step: StepView) -> StepPlan:
        """The ranges of rows that every sequence computes at its next step; on the host."""
        return StepPlan([IDLE if view is None else self.plan_slot(view) for view in step.slots])

    def mark(self, step: StepView, plan: StepPlan) -> None:
        """Fills in the plan's ``marks``, ``forced`` and ``window``.

        Runs on the device and may be captured as a CUDA graph: no number is read back, sizes and
        branches do not depend on the slots, numbers of the slots come from ``step.columns``, and
        state of the policy is changed in place.
        """

    def max_rows(self, view: SlotView, plan: SlotPlan) -> int:
        """Rows that :meth:`mark` marks in a slot's range, at most."""
        return plan.end - plan.begin

    def expected_rows(self, view: SlotView, plan: SlotPlan) -> int | None:
        """Rows that :meth:`mark` marks as a rule, where :meth:`max_rows` is far above that.

        Steps that do not read the device make room for so many. ``view.rows_before`` says how many
        there were last. A step with more is repeated, so :meth:`mark` must change no state, and the
        stack neither track nor select. None: room for ``max_rows``.
        """
        return None

    def max_forced(self, view: SlotView, plan: SlotPlan) -> int:
        """Rows that :meth:`mark` forces in a slot's range: exactly that many where they come on top
        of the budget (``SelectionSpec.forced_extra``), else at most."""
        return 0

    def plan_slot(self, view: SlotView) -> SlotPlan:
        """The rows that one sequence computes at its next step.

        The first step of a sequence (``view.step == 0``) must cover the whole canvas: nothing is
        cached yet. The rows that predict the masks of the block must always be covered.
        """
        raise TypeError(f"{type(self).__name__} defines neither plan nor plan_slot")

    def score(self, step: StepView, candidates: Tensor, log_confidence: Tensor) -> Tensor | None:
        """What ranks the candidates, ``[Q]`` fp32, or None for the sampler's own ranking."""
        return None

    @property
    def follows_commits(self) -> bool:
        """Whether :meth:`after_commit` does anything; to prepare what it is told takes time."""
        return type(self).after_commit is not CachePolicy.after_commit

    def after_commit(self, result: StepResult) -> None:
        """Takes the step just made into account; under the rules of :meth:`mark`."""

    @classmethod
    def exact_config(cls) -> PolicyConfig:
        """Settings under which every decoded token equals vanilla's."""
        raise TypeError(f"{cls.__name__} defines no exact_config")


def check_integer(name: str, value: Any, low: int, *, optional: bool = False) -> None:
    """Refuses anything but an integer from ``low`` on that int32 holds (or None where
    ``optional``): sums with positions stay far within int64."""
    if optional and value is None:
        return
    integer = isinstance(value, int) and not isinstance(value, bool)
    if not integer or not low <= value < 2**31:
        none = "None or " if optional else ""
        allowed = "< 2^31" if integer and value > low else f">= {low}"
        raise ValueError(f"{name} must be {none}an integer {allowed}, got {value!r}")


def check_interval(name: str, value: Any, *, optional: bool = False) -> None:
    """Refuses anything but an integer >= 1 (or None where ``optional``)."""
    check_integer(name, value, 1, optional=optional)


def check_choice(name: str, value: Any, choices: Sequence[str]) -> None:
    """Refuses anything but one of the choices."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def check_number(name: str, value: Any, low: float, high: float, *, optional: bool = False) -> None:
    """Refuses anything but a number in ``[low, high]`` (or None where ``optional``)."""
    if optional and value is None:
        return
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low <= value <= high:
        none = "None or " if optional else ""
        raise ValueError(f"{name} must be {none}a number in [{low:g}, {high:g}], got {value!r}")


def check_flag(name: str, value: Any) -> None:
    """Refuses anything but True and False."""
    if not isinstance(value, bool):
        raise ValueError(f"{name} must be True or False, got {value!r}")


def is_due(step: int, interval: int | None) -> bool:
    """Whether something that happens every ``interval`` steps (None: once) is due."""
    return step == 0 or (interval is not None and step % interval == 0)
