"""The control block: all that the host tells the device for one step, in one copy."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import accumulate

import torch
from torch import Tensor

from dlmcache_cuda.decoding.slots import Slot
from dlmcache_cuda.decoding.step_shape import rounded_size
from dlmcache_cuda.policies import SlotColumns, SlotPlan, SlotView

# A window that limits nothing.
NO_LIMIT = 2**31 - 1


@dataclass(frozen=True, slots=True)
class LoopColumns:
    """What the loop itself needs of every slot: ``[S]`` int64, zeros for free slots."""

    seeds: Tensor
    steps: Tensor
    num_commit: Tensor
    candidates_begin: Tensor
    """First position that may be committed."""
    limit: Tensor
    """Of these, the leftmost so many masks."""
    floor: Tensor
    """The first row that may predict a position (``SlotPlan.slice_shift``)."""
    may_cut: Tensor
    """1 where an end of text that is committed now ends the sequence."""
    pads: Tensor
    """1 where what stands behind the first end of text becomes padding."""
    needed: Tensor
    """Positions that have to be predicted at least."""
    text_end: Tensor
    """From which position on an end token ends the text: behind the last given one."""


_COLUMNS = [field.name for field in fields(SlotColumns)]
_LOOP_COLUMNS = [field.name for field in fields(LoopColumns)]


def slot_numbers(
    slot: Slot, view: SlotView, plan: SlotPlan, may_cut: bool, pads: bool
) -> tuple[int, ...]:
    """The columns of one slot, in the order of :class:`SlotColumns` and :class:`LoopColumns`."""
    return (
        slot.prompt_length,
        slot.length,
        slot.block_begin,
        slot.block_end,
        slot.end,
        slot.step,
        plan.begin,
        plan.end,
        plan.marked,
        plan.tested,
        slot.seed,
        slot.step,
        slot.num_commit,
        slot.candidates_begin(plan),
        NO_LIMIT if plan.window is None else plan.window,
        plan.begin if plan.slice_shift else 0,
        may_cut,
        pads,
        len(view.due) or min(view.num_commit, view.num_masks),
        slot.region.text_end,
    )


FREE_SLOT = (0,) * (len(_COLUMNS) + len(_LOOP_COLUMNS))


class StepControl:
    """A control block, cut into named vectors."""

    __slots__ = ("columns", "loop", "spans", "kv_lens", "bounds", "extra")

    def __init__(self, block: Tensor, num_slots: int, copies: int) -> None:
        """``block``: what :func:`flatten` made, on the device."""
        names = len(FREE_SLOT)
        # Of the slots of the network: their keys, and from which layer on a step that goes on
        # computes their canvas (the number of layers: nowhere; 0 where no step goes on).
        vectors, spans, self.kv_lens, self.bounds, self.extra = block.split(
            [names * num_slots, 4 * num_slots, copies * num_slots, copies * num_slots,
             block.numel() - (names + 4 + 2 * copies) * num_slots]
        )  # fmt: skip
        vectors = vectors.view(names, num_slots).unbind()
        self.columns = SlotColumns(*vectors[: len(_COLUMNS)])
        self.loop = LoopColumns(*vectors[len(_COLUMNS) :])
        self.spans = spans.view(num_slots, 4)


def flatten(
    numbers: Sequence[Sequence[int]], bounds: Sequence[int], extra: Sequence[int] = ()
) -> list[int]:
    """The block of a step: the columns, ``ops.commit_``'s spans, keys and ``bounds`` of every slot
    of the network, and ``extra``."""
    flat = [value for column in zip(*numbers, strict=True) for value in column]
    flat += [value for slot in numbers for value in slot[:4]]
    flat += [slot[1] for slot in numbers] * (len(bounds) // len(numbers))
    flat += bounds
    flat += extra
    return flat


def listed_rows(plans: Sequence[SlotPlan], capacity: int, size: int) -> list[int]:
    """The rows that plans list, in ``size`` entries."""
    rows = [slot * capacity + p for slot, plan in enumerate(plans) for p in plan.rows or ()]
    return [*rows, *[-1] * (size - len(rows))]


def due_rows(views: Sequence[SlotView | None], capacity: int, size: int) -> list[int]:
    """Random order: the rows whose turn it is, in ``size`` entries, and their ``cu_rows``."""
    due = [[] if view is None else sorted(view.due) for view in views]
    rows = [slot * capacity + p for slot, places in enumerate(due) for p in places]
    ends = accumulate(map(len, due), initial=0)
    return [*rows, *[-1] * (size - len(rows)), *ends]


class ControlBlock:
    """Where the control block of a step stands on the device: always at the same place.

    There is room for every block of a decoder: budgets of all layers, ``listed`` rows of plans and
    a whole drawn order.
    """

    def __init__(
        self,
        device: torch.device,
        num_slots: int,
        copies: int,
        layers: int,
        capacity: int,
        listed: int,
    ) -> None:
        columns = (len(FREE_SLOT) + 4 + 2 * copies) * num_slots
        order = rounded_size(num_slots * capacity) + num_slots + 1
        size = columns + layers * copies * num_slots + rounded_size(listed) + order
        self._numbers: array[int] | None = None
        if device.type == "cuda":
            self._staging = torch.empty(size, dtype=torch.int64, pin_memory=True)
            self._block = torch.empty(size, dtype=torch.int64, device=device)
        else:
            # The block lies where Python writes.
            self._numbers = array("q", bytes(8 * size))
            self._block = torch.frombuffer(self._numbers, dtype=torch.int64)
        self._num_slots, self._copies = num_slots, copies
        # By length: blocks of a length are cut at the same places.
        self._controls: dict[int, StepControl] = {}

    def upload(self, flat: Sequence[int]) -> StepControl:
        """The numbers on the device, by one copy that does not wait; they replace those of the step
        before."""
        length = len(flat)
        if self._numbers is not None:
            self._numbers[:length] = array("q", flat)
        else:
            # The host has waited for the step before: nothing reads the staging area any more.
            numbers = self._staging[:length].copy_(torch.tensor(flat, dtype=torch.int64))
            self._block[:length].copy_(numbers, non_blocking=True)
        control = self._controls.get(length)
        if control is None:
            control = StepControl(self._block[:length], self._num_slots, self._copies)
            self._controls[length] = control
        return control
