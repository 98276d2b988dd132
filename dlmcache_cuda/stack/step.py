"""What a stack is given for one step, and what it gives back. Slots are those of the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from dlmcache_cuda.cache import RowList
from dlmcache_cuda.model.attention import KeyLengths
from dlmcache_cuda.policies import SlotPlan


@dataclass(slots=True)
class StackStep:
    """One step of all slots of the network."""

    tokens: Tensor
    """``[M]`` int64 canvases."""
    rows: RowList
    """Rows that enter."""
    key_lengths: KeyLengths
    plans: Sequence[SlotPlan]
    gen_lengths: Sequence[int]
    """Generation lengths of the slots, 0 for free ones: what budgets are fractions of."""
    forced: Tensor | None = None
    """``[M]`` bool: rows that sparse layers always compute."""
    forced_counts: Sequence[int] = ()
    """Their number among the rows that each slot carries in sparse layers."""
    window: RowList | None = None
    """Rows whose attention decides what is tracked."""
    masked: Tensor | None = None
    """``[M]`` bool: masks, which are never tracked."""

    @property
    def lengths(self) -> Sequence[int]:
        return self.key_lengths.host


@dataclass(slots=True)
class StackResult:
    """What came out of the last layer."""

    hidden: Tensor
    """``[R, W]`` residual stream before the final norm."""
    rows: RowList
    """The rows it belongs to."""
    computed: list[int]
    """Rows computed for each slot, summed over layers."""
    tracked: Tensor | None = None
    """``[M]`` bool: the most-attended rows of all layers."""
    importance: Tensor | None = None
    """``[M]`` fp32: attention rollout summed over the rows."""
    boundaries: list[int | None] = field(default_factory=list)
    """The first layer that computed the whole canvas because a test failed, per slot."""
    similarities: list[list[float | None]] = field(default_factory=list)
    """What each layer's test measured, per slot; None where nothing was tested."""
    layer_rows: list[RowList] | None = None
    """The rows that each layer computed, where the stack records them."""
