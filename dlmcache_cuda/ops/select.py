"""The best rows of every slot's part of a row list."""

from __future__ import annotations

import torch
from torch import Tensor

from dlmcache_cuda import _extension  # noqa: F401  (registers the operators)


def select_rows(
    score: Tensor,
    row_index: Tensor,
    cu_rows: Tensor,
    k: Tensor,
    max_rows: int,
    largest: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    """Per slot the ``k[s]`` rows of its part of the list with the largest (or smallest) score.

    Of equal scores the earlier entries are taken. NaN ranks before every number, whichever end is
    asked for, so that a row that went wrong is selected and seen; infinities are ordinary values,
    -0 equals 0. The result keeps the order of the list.

    Args:
        score: ``[R]`` float32, contiguous, one per entry of ``row_index``.
        row_index: ``[R]`` int64 rows, packed over slots, as :func:`build_rows` makes them.
        cu_rows: ``[S + 1]`` int64, which part of the list belongs to which slot; the entries behind
            ``cu_rows[S]`` are unused.
        k: ``[S]`` int64, how many of each slot; 0 or less: none, more than there are: all.
        max_rows: entries of the returned lists, which does not depend on the data.
        largest: whether the largest scores are taken or the smallest.

    Returns:
        ``row_index`` ``[max_rows]`` int64, the selected rows; ``places`` ``[max_rows]`` int64,
        their entries in the input list, ascending; both -1 behind the last one; and ``cu_rows``
        ``[S + 1]`` int64 of the selection.

    Raises:
        RuntimeError: a shape, dtype, device or stride is not as above, or (on a CPU) ``cu_rows``
            does not describe the list or the selection does not fit into ``max_rows``. On CUDA
            what does not fit is left out and the returned ``cu_rows`` counts what is listed.
    """
    return torch.ops.dlmcache.select_rows(score, row_index, cu_rows, k, max_rows, largest)


@torch.library.register_fake("dlmcache::select_rows")
def _(
    score: Tensor,
    row_index: Tensor,
    cu_rows: Tensor,
    k: Tensor,
    max_rows: int,
    largest: bool = True,
) -> tuple[Tensor, Tensor, Tensor]:
    return (
        row_index.new_empty((max_rows,)),
        row_index.new_empty((max_rows,)),
        row_index.new_empty((cu_rows.shape[0],)),
    )
