"""What a layer adds to a row, kept for the steps that do not compute the row there."""

from __future__ import annotations

import torch
from torch import Tensor

from dlmcache_cuda import _extension  # noqa: F401  (registers the operators)


def delta_update_(
    delta: Tensor,
    h: Tensor,
    row_index: Tensor,
    attn_out: Tensor,
    ff_out: Tensor,
    places: Tensor,
    norm_weight: Tensor | None = None,
    eps: float = 1e-5,
    absolute: bool = False,
) -> tuple[Tensor, Tensor]:
    """Carries rows over a layer that computed only some of them, and applies the next norm.

    Computed rows store ``delta[row_index[places[i]]] = attn_out[i] + ff_out[i]``; then every
    carried row goes on as ``h_next = h + delta[row_index]``. With ``absolute`` the layer's output
    itself is kept, ``h[places[i]] + attn_out[i] + ff_out[i]``, and ``h_next = delta[row_index]``.
    Every addition is rounded to the dtype, from left to right, as torch does.

    Args:
        delta: ``[M, W]``, float32, float16 or bfloat16, contiguous; modified.
        h: ``[R, W]`` carried rows as they entered the layer, dtype of ``delta``; any row stride.
        row_index: ``[R]`` int64 rows of ``delta`` where the carried rows stand, contiguous, without
            repetition; -1 marks an unused entry: its results are zeros and it writes nothing.
        attn_out: ``[K, W]``, what attention adds to the computed rows; any row stride.
        ff_out: ``[K, W]``, what the feed-forward adds to them; any row stride.
        places: ``[K]`` int64 entries of ``row_index`` that were computed, contiguous, ascending,
            -1 (unused) behind, as :func:`select_rows` returns them. May be empty.
        norm_weight: ``[W]`` weight of the next RMSNorm, dtype of ``delta``. Default: no norm.
        eps: added to the mean of squares in that norm.
        absolute: whether ``delta`` holds outputs instead of differences.

    Returns:
        ``h_next`` ``[R, W]``, and ``rms_norm(h_next, norm_weight, eps)`` ``[R, W]`` as
        :func:`rms_norm` computes it (``[0]`` without ``norm_weight``); contiguous.

    Raises:
        RuntimeError: a shape, dtype, device or stride is not as above, or (on a CPU) an index is
            out of range or ``places`` does not ascend.
    """
    return torch.ops.dlmcache.delta_update_(
        delta, h, row_index, attn_out, ff_out, places, norm_weight, eps, absolute
    )


@torch.library.register_fake("dlmcache::delta_update_")
def _(
    delta: Tensor,
    h: Tensor,
    row_index: Tensor,
    attn_out: Tensor,
    ff_out: Tensor,
    places: Tensor,
    norm_weight: Tensor | None = None,
    eps: float = 1e-5,
    absolute: bool = False,
) -> tuple[Tensor, Tensor]:
    return h.new_empty(h.shape), h.new_empty((0,) if norm_weight is None else h.shape)
