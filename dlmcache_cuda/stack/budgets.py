"""How many rows each layer computes where layers select (SPA-Cache, dLLM-Cache, composed)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dlmcache_cuda.policies import SelectionSpec, SlotPlan


@dataclass(frozen=True, slots=True)
class SlotRows:
    """What a slot of the network brings to its layers."""

    plan: SlotPlan
    gen_length: int
    length: int
    carried: int
    """Rows that enter."""
    forced: int
    """Rows that sparse layers must compute, or at most so many where they are not extra."""


def is_sparse(plan: SlotPlan, layer: int, boundary: int | None) -> bool:
    """Whether a layer computes a budget: never where only marked rows enter, up to a boundary."""
    return plan.sparse and (not plan.marked or (boundary is not None and layer > boundary))


def carried_rows(layer: int, slot: SlotRows, boundary: int | None) -> int:
    """Rows of a slot that come into a layer."""
    return slot.length if boundary is not None and layer >= boundary else slot.carried


def layer_rows(
    spec: SelectionSpec, layer: int, slot: SlotRows, boundary: int | None
) -> tuple[int, int]:
    """Rows of a slot that a layer computes: without those forced anyway, and at most."""
    carried = carried_rows(layer, slot, boundary)
    if layer < spec.first_layer or not is_sparse(slot.plan, layer, boundary):
        return carried, carried
    budget = spec.budget(layer, slot.gen_length, slot.length)
    if spec.forced_extra:
        budget += slot.forced
    most = budget if spec.forced_extra else max(budget, slot.forced)
    return min(budget, carried), min(most, carried)


@dataclass(frozen=True, slots=True)
class BudgetPlan:
    """The budgets of a step that are known before it begins."""

    rows: list[list[int]]
    """By layer and slot of the network."""
    sizes: list[int | None]
    """By layer: rows of all slots at most; None: all that are carried."""
    forces_more: bool
    """Forced rows, which only the device counts, may exceed these budgets."""


def plan_budgets(
    spec: SelectionSpec,
    layers: int,
    slots: Sequence[SlotRows],
    boundaries: Sequence[int | None] | None = None,
) -> BudgetPlan:
    """What every layer computes of every slot."""
    bounds = boundaries or [None] * len(slots)
    rows, sizes = [], []
    for layer in range(layers):
        chosen = [layer_rows(spec, layer, slot, b) for slot, b in zip(slots, bounds, strict=True)]
        rows.append([number for number, _ in chosen])
        every = [carried_rows(layer, slot, b) for slot, b in zip(slots, bounds, strict=True)]
        sizes.append(None if rows[-1] == every else sum(most for _, most in chosen))
    forces_more = not spec.forced_extra and any(slot.forced for slot in slots)
    return BudgetPlan(rows, sizes, forces_more)
