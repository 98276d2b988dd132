"""The rows of which something is read behind the last layer."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from dlmcache_cuda import ops
from dlmcache_cuda.cache import RowList


@dataclass(frozen=True, slots=True)
class ReadRows:
    """Rows that go through the whole last layer. Of the others it makes only keys and values: what
    would come out of it is read by nobody."""

    places: Tensor
    """``[P]`` int64: where they stand among the rows that go into the layer; -1: not there."""
    rows: RowList
    """They themselves."""

    @classmethod
    def among(cls, rows: RowList, read: RowList | None) -> ReadRows | None:
        """``read`` among the rows of a step; None where it leaves out none of them."""
        if read is None or read.max_rows >= rows.max_rows:
            return None
        # Queries without counts never take dense attention, which is for whole canvases.
        finished = RowList(read.row_index, read.cu_rows, None, read.capacity)
        return cls(read.places_in(rows), finished)

    def of(self, tensor: Tensor) -> Tensor:
        """Their part ``[P, ...]`` of what all rows have."""
        return ops.gather_rows(tensor, self.places)

    def put_back(self, tensor: Tensor, rows: Tensor) -> Tensor:
        """``tensor [R, ...]``, overwritten with their ``rows [P, ...]``."""
        ops.scatter_rows_(tensor, rows, self.places)
        return tensor
