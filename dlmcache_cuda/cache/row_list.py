"""The rows that one forward computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dlmcache_cuda import ops


@dataclass(frozen=True, slots=True)
class RowList:
    """Rows of several slots, packed: the unit of work of one forward.

    Where the counts stand on the host too, a forward can choose its kernels and slice its buffers
    by them without reading device memory.
    """

    row_index: Tensor
    """``[R]`` int64 flat rows (slot * capacity + position), ascending; -1 behind the used ones."""
    cu_rows: Tensor
    """``[S + 1]`` int64: slot s has the entries ``cu_rows[s]`` to ``cu_rows[s + 1]`` - 1."""
    counts: tuple[int | None, ...] | None
    """Number of rows of each slot, S of them; None where only the device knows: for a slot, or for
    all."""
    capacity: int
    """Positions of a slot."""

    @classmethod
    def from_ranges(
        cls,
        begin: Sequence[int],
        end: Sequence[int],
        capacity: int,
        device: torch.device | str = "cpu",
    ) -> RowList:
        """The positions ``begin[s] <= p < end[s]`` of every slot s; an empty range is legal.

        Raises:
            ValueError: the two have different lengths, or a range leaves ``[0, capacity]``.
        """
        if len(begin) != len(end):
            raise ValueError(
                f"RowList.from_ranges: begin and end must have one entry per slot, "
                f"got {len(begin)} and {len(end)}"
            )
        for slot, (first, last) in enumerate(zip(begin, end, strict=True)):
            if not 0 <= first <= last <= capacity:
                raise ValueError(
                    f"RowList.from_ranges: slot {slot} has the range [{first}, {last}), "
                    f"which does not lie in [0, {capacity}]"
                )
        counts = tuple(last - first for first, last in zip(begin, end, strict=True))
        row_index, cu_rows = ops.build_rows(
            torch.tensor(begin, dtype=torch.int64, device=device),
            torch.tensor(end, dtype=torch.int64, device=device),
            capacity,
            sum(counts),
        )
        return cls(row_index, cu_rows, counts, capacity)

    @property
    def max_rows(self) -> int:
        """Entries of the list, used or not."""
        return self.row_index.numel()

    @property
    def num_slots(self) -> int:
        """Slots, whether or not they have rows."""
        return self.cu_rows.numel() - 1
