"""RMSNorm of selected rows, and of the sum of two."""

from __future__ import annotations

import torch
from torch import Tensor

from dlmcache_cuda import _extension  # noqa: F401  (registers the operators)


def rms_norm(x: Tensor, weight: Tensor, eps: float, row_index: Tensor | None = None) -> Tensor:
    """Root-mean-square normalisation of the selected rows of ``x``, gathered on the way.

    ``out[r] = round(x[i] / sqrt(mean(x[i]^2) + eps)) * weight`` with ``i = row_index[r]``: squares
    are summed in fp32 and the quotient is rounded to the dtype of ``x`` before the weight, as LLaDA
    does (LLaDA modeling code, ``RMSLayerNorm``).

    Args:
        x: ``[M, W]``, float32, float16 or bfloat16; rows may lie apart (any row stride).
        weight: ``[W]``, dtype of ``x``.
        eps: added to the mean of squares.
        row_index: ``[R]`` int64 rows of ``x``; -1 marks an unused entry, its row is zeros.
            Default: all rows in order.

    Returns:
        ``[R, W]`` (``[M, W]`` without ``row_index``), contiguous, dtype of ``x``.

    Raises:
        RuntimeError: a shape, dtype, device or (on a CPU) an index is not as above.
    """
    return torch.ops.dlmcache.rms_norm(x, weight, eps, row_index)


def add_rms_norm(x: Tensor, y: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The sum of two and, in the same pass, its RMSNorm: a residual and what reads it next.

    Args:
        x, y: ``[R, W]``, float32, float16 or bfloat16, of one dtype; any row strides.
        weight: ``[W]``, dtype of ``x``.
        eps: added to the mean of squares.

    Returns:
        ``x + y``, rounded as torch rounds it, and its :func:`rms_norm`; both ``[R, W]``,
        contiguous, to the bit what the two operations give.

    Raises:
        RuntimeError: a shape, dtype or device is not as above.
    """
    return torch.ops.dlmcache.add_rms_norm(x, y, weight, eps)


@torch.library.register_fake("dlmcache::rms_norm")
def _(x: Tensor, weight: Tensor, eps: float, row_index: Tensor | None = None) -> Tensor:
    rows = x.shape[0] if row_index is None else row_index.shape[0]
    return x.new_empty((rows, x.shape[1]))


@torch.library.register_fake("dlmcache::add_rms_norm")
def _(x: Tensor, y: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape)
