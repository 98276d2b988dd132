"""Copies of selected rows."""

from __future__ import annotations

import torch
from torch import Tensor

from dlmcache_cuda import _extension  # noqa: F401  (registers the operators)


def gather_rows(src: Tensor, row_index: Tensor) -> Tensor:
    """The selected rows of ``src``, packed: ``out[r] = src[row_index[r]]``.

    Rows are copied byte for byte. A row may be selected more than once.

    Args:
        src: ``[M, ...]``, any dtype, contiguous; a row is everything behind the first dimension.
        row_index: ``[R]`` int64 rows of ``src``, contiguous; -1 marks an unused entry, its row is
            zeros.

    Returns:
        ``[R, ...]``, contiguous, dtype and device of ``src``.

    Raises:
        RuntimeError: a shape, dtype, device, stride or (on a CPU) an index is not as above.
    """
    return torch.ops.dlmcache.gather_rows(src, row_index)


def scatter_rows_(dst: Tensor, rows: Tensor, row_index: Tensor) -> None:
    """Writes packed rows to their places, in place: ``dst[row_index[r]] = rows[r]``.

    Rows are copied byte for byte; rows of ``dst`` that no entry names keep their values.

    Args:
        dst: ``[M, ...]``, any dtype, contiguous; modified.
        rows: ``[R, ...]``, contiguous; trailing dimensions, dtype and device of ``dst``.
        row_index: ``[R]`` int64 rows of ``dst``, contiguous; -1 marks an unused entry, which is
            skipped. A row that is named twice ends up with either of the two values, or a mixture.

    Raises:
        RuntimeError: a shape, dtype, device, stride or (on a CPU) an index is not as above.
    """
    torch.ops.dlmcache.scatter_rows_(dst, rows, row_index)


@torch.library.register_fake("dlmcache::gather_rows")
def _(src: Tensor, row_index: Tensor) -> Tensor:
    return src.new_empty((row_index.shape[0], *src.shape[1:]))


@torch.library.register_fake("dlmcache::scatter_rows_")
def _(dst: Tensor, rows: Tensor, row_index: Tensor) -> None:
    return None
