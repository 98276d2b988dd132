"""What a stack is given for one step, and what it gives back. Slots are those of the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from dlmcache_cuda.cache import RowList
from dlmcache_cuda.model.attention import KeyLengths
from dlmcache_cuda.policies import SlotPlan


@dataclass(frozen=True, slots=True)
class LayerBudgets:
    """Rows that each layer computes of those it carries."""

    sizes: tuple[int | None, ...]
    """By layer: rows of all slots, at most; None: all that are carried."""
    rows: Tensor
    """``[L, S]`` int64 on the device: of each slot, without rows that are forced anyway."""
    counts: Sequence[Sequence[int]] | None = None
    """The same on the host, where nothing else is forced and the numbers may be relied on."""


@dataclass(slots=True)
class StackStep:
    """One step of all slots of the network.

    A step is either *exact*, which reads counts and similarities from the device where it needs
    them, or it reads nothing: lists are then as long as they can get, budgets are given, and
    boundaries are guessed: see :class:`dlmcache_cuda.stack.Stack`.
    """

    tokens: Tensor
    """``[M]`` int64 canvases."""
    rows: RowList
    """Rows that enter."""
    key_lengths: KeyLengths
    plans: Sequence[SlotPlan]
    gen_lengths: Sequence[int]
    """Generation lengths of the slots, 0 for free ones: what budgets are fractions of."""
    exact: bool = True
    tested: Tensor | None = None
    """``[S]`` bool: slots whose layers test the drift of tracked rows; of a step that reads
    nothing."""
    forced: Tensor | None = None
    """``[M]`` bool: rows that sparse layers always compute."""
    forced_counts: Tensor | None = None
    """``[S]`` int64: their number among the rows that each slot carries in sparse layers."""
    budgets: LayerBudgets | None = None
    """Where layers select and the step is not exact."""
    window: RowList | None = None
    """Rows whose attention decides what is tracked."""
    read: RowList | None = None
    """The only rows of which the result is read; None: all that come out."""
    masked: Tensor | None = None
    """``[M]`` bool: masks, which are never tracked."""
    prompt_embeds: Tensor | None = None
    """Embeddings of rows that have no token, see :meth:`dlmcache_cuda.model.Llada.embed`."""
    boundary: Sequence[int | None] | None = None
    """A step that goes on with the slots whose boundary was guessed wrong: from which layer each
    computes its canvas; no rows enter."""
    bounds: Tensor | None = None
    """``[S]`` int64: the same on the device. The number of layers for a slot that stands as it is
    while its twin goes on, 0 for slots that take no part, which have no keys."""

    @property
    def lengths(self) -> Sequence[int]:
        return self.key_lengths.host

    @property
    def resumes(self) -> bool:
        return self.boundary is not None


@dataclass(frozen=True, slots=True)
class LayerSelection:
    """What a layer that computes the most drifted of its rows chose from."""

    carried: RowList
    drift: Tensor
    """``[R]`` fp32 of the carried rows; infinity for rows that are computed anyway."""
    places: Tensor
    """``[C]`` int64: where the computed rows stand among them, -1 for unused ones."""


@dataclass(slots=True)
class StackResult:
    """What came out of the last layer."""

    hidden: Tensor
    """``[R, W]`` residual stream before the final norm. Rows that the step does not read may hold
    what went into the last layer."""
    rows: RowList
    """The rows it belongs to."""
    computed: Tensor | tuple[int, ...]
    """``[S]`` int64: rows computed for each slot, summed over layers; on the host where it knows
    them."""
    tracked: Tensor | None = None
    """``[M]`` bool: the most-attended rows of all layers."""
    importance: Tensor | None = None
    """``[M]`` fp32: attention rollout summed over the rows."""
    boundaries: Tensor | None = None
    """``[S]`` int64: the first layer that computes the whole canvas because the test below it
    failed, -1 where none did; only where layers test and somebody asks: an exact step that is not
    recorded has gone by them already."""
    similarities: Tensor | None = None
    """``[L, S]`` fp32: what each layer's test measured; only where layers test, and the step is
    recorded or reads nothing."""
    layer_rows: list[RowList] | None = None
    """The rows that each layer computed, where the stack records them."""
    layer_selection: list[LayerSelection | None] | None = None
    """What each layer selected rows by, where the stack records it; None for layers that did not
    select."""
