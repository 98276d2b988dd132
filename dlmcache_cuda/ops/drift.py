"""How far rows have moved from what they were at an earlier step."""

from __future__ import annotations

import torch
from torch import Tensor

from dlmcache_cuda import _extension  # noqa: F401  (registers the operators)


def cosine_drift_(
    signal: Tensor, reference: Tensor, row_index: Tensor, update: bool = True
) -> Tensor:
    """One minus the cosine between each row and its reference, which the row then replaces.

    ``drift[i] = 0.5 * |a/|a| - b/|b||^2`` with ``a = signal[i]``, ``b = reference[row_index[i]]``,
    which is ``1 - cos(a, b)`` without its cancellation: equal rows have a drift of exactly 0, and
    so have rows whose drift is below 1e-12, which is what rounding leaves of equal ones. A zero
    vector against another has 1, two zero vectors 0. Sums are taken in fp32.

    Args:
        signal: ``[R, r]``, float32, float16 or bfloat16; rows may lie apart (any row stride).
        reference: ``[M, r]``, contiguous, dtype of ``signal``; modified if ``update``.
        row_index: ``[R]`` int64 rows of ``reference``, contiguous, without repetition; -1 marks an
            unused entry: its drift is 0 and it writes nothing.
        update: whether ``reference[row_index[i]]`` becomes ``signal[i]``. Default: it does.

    Returns:
        ``[R]`` float32, 0 to 2; NaN where a square of either row, or their sum, is not finite in
        float32.

    Raises:
        RuntimeError: a shape, dtype, device, stride or (on a CPU) an index is not as above.
    """
    return torch.ops.dlmcache.cosine_drift_(signal, reference, row_index, update)


@torch.library.register_fake("dlmcache::cosine_drift_")
def _(signal: Tensor, reference: Tensor, row_index: Tensor, update: bool = True) -> Tensor:
    return signal.new_empty((signal.shape[0],), dtype=torch.float32)
