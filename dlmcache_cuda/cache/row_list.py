"""The rows that one forward computes."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, field

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
    _found: list[tuple[RowList, Tensor]] = field(
        default_factory=list, init=False, repr=False, compare=False
    )

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
        first = torch.tensor(begin, dtype=torch.int64, device=device)
        behind = torch.tensor(end, dtype=torch.int64, device=device)
        return cls.from_bounds(first, behind, capacity, sum(counts), counts=counts)

    @classmethod
    def from_bounds(
        cls,
        begin: Tensor,
        end: Tensor,
        capacity: int,
        max_rows: int | None,
        *,
        flags: Tensor | None = None,
        limit: Tensor | None = None,
        counts: Sequence[int | None] | None = None,
    ) -> RowList:
        """The positions from ``begin [S]`` and below ``end [S]`` of every slot, on the device.

        Args:
            max_rows: entries of the list; None: as many as it has rows, for which the device is
                read, so that the counts are known.
            flags: ``[S * capacity]`` bool: only these positions. None: all.
            limit: ``[S]`` int64: only the leftmost so many. None: all.
            counts: rows of each slot, where the host knows them before.
        """
        size = begin.numel() * capacity if max_rows is None else max_rows
        row_index, cu_rows = ops.build_rows(begin, end, capacity, size, flags=flags, limit=limit)
        if max_rows is None:
            ends = cu_rows.tolist()
            row_index = row_index[: ends[-1]]
            counts = map(operator.sub, ends[1:], ends)
        return cls(row_index, cu_rows, None if counts is None else tuple(counts), capacity)

    @property
    def max_rows(self) -> int:
        """Entries of the list, used or not."""
        return self.row_index.numel()

    @property
    def num_slots(self) -> int:
        """Slots, whether or not they have rows."""
        return self.cu_rows.numel() - 1

    @property
    def known_counts(self) -> tuple[int, ...] | None:
        """Number of rows of each slot, where the host knows all of them."""
        return None if self.counts is None or None in self.counts else self.counts

    @property
    def may_have_unused(self) -> bool:
        """Whether entries may be unused for all that the host knows."""
        counts = self.known_counts
        return counts is None or sum(counts) < self.max_rows

    def shifted(self, shift: int) -> RowList:
        """The rows ``shift`` before these, in places that are just as unused."""
        if not shift:
            return self
        row_index = (self.row_index - shift).masked_fill(self.row_index < 0, -1)
        return RowList(row_index, self.cu_rows, self.counts, self.capacity)

    def places_in(self, rows: RowList) -> Tensor:
        """``[R]`` int64: where each of these rows stands among ``rows``; -1 where it does not. They
        are looked for once, as long as nothing else is asked."""
        if not (self._found and self._found[0][0] is rows):
            places = ops.find_rows(rows.row_index, rows.cu_rows, self.row_index, rows.capacity)
            self._found[:] = [(rows, places)]
        return self._found[0][1]
