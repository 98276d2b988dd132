"""Row lists: which rows of every slot are active, packed, and where a row stands in such a list."""

from __future__ import annotations

import torch
from torch import Tensor

from dlmcache_cuda import _extension  # noqa: F401  (registers the operators)


def build_rows(
    begin: Tensor,
    end: Tensor,
    capacity: int,
    max_rows: int,
    flags: Tensor | None = None,
    limit: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Lists the flagged rows of every slot, packed, in ascending order.

    Slot ``s`` contributes the positions ``p`` with ``begin[s] <= p < end[s]`` and
    ``flags[s * capacity + p]``, and of those the leftmost ``limit[s]``; each as the flat row
    ``s * capacity + p``. With ``begin >= end`` it contributes none.

    Args:
        begin: ``[S]`` int64 positions, 0 to ``capacity``.
        end: ``[S]`` int64, the position behind the last one, 0 to ``capacity``.
        capacity: positions of one slot.
        max_rows: entries of the returned list, which does not depend on the data.
        flags: ``[S * capacity]`` bool. Default: all positions count.
        limit: ``[S]`` int64, at most so many rows of the slot; 0 or less: none. Default: no limit.

    Returns:
        ``row_index`` ``[max_rows]`` int64, ascending, -1 behind the last row; and ``cu_rows``
        ``[S + 1]`` int64: slot ``s`` has the entries ``cu_rows[s]`` to ``cu_rows[s + 1] - 1``.

    Raises:
        RuntimeError: a shape, dtype or device is not as above, or (on a CPU) a position is out of
            range or the rows do not fit into ``max_rows``. On CUDA the rows that do not fit are
            left out and ``cu_rows`` counts those that are listed.
    """
    return torch.ops.dlmcache.build_rows(begin, end, capacity, max_rows, flags, limit)


def find_rows(row_index: Tensor, cu_rows: Tensor, query: Tensor, capacity: int) -> Tensor:
    """Where each row of ``query`` stands in a row list.

    Args:
        row_index: ``[R]`` int64, a list as :func:`build_rows` makes it: ascending, unused entries
            (-1) at the end.
        cu_rows: ``[S + 1]`` int64, which part of the list belongs to which slot.
        query: ``[Q]`` int64 rows in any order, repeats allowed; -1 stands for none.
        capacity: positions of one slot.

    Returns:
        ``[Q]`` int64: ``i`` with ``row_index[i] == query[q]``, or -1 where the row is not listed or
        the query is -1.

    Raises:
        RuntimeError: a shape, dtype or device is not as above, or (on a CPU) ``cu_rows`` does not
            describe the list or a query is out of range.
    """
    return torch.ops.dlmcache.find_rows(row_index, cu_rows, query, capacity)


@torch.library.register_fake("dlmcache::build_rows")
def _(
    begin: Tensor,
    end: Tensor,
    capacity: int,
    max_rows: int,
    flags: Tensor | None = None,
    limit: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    return begin.new_empty((max_rows,)), begin.new_empty((begin.shape[0] + 1,))


@torch.library.register_fake("dlmcache::find_rows")
def _(row_index: Tensor, cu_rows: Tensor, query: Tensor, capacity: int) -> Tensor:
    return query.new_empty((query.shape[0],))
