"""Sampling tokens from logits with temperature, top-p and top-k, as Dream does."""

from __future__ import annotations

import torch
from torch import Tensor

from dlmcache_cuda import _extension  # noqa: F401  (registers the operators)


def sample_rows(
    logits: Tensor,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    score: int = 0,
    row_index: Tensor | None = None,
    capacity: int = 1,
    seeds: Tensor | None = None,
    steps: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Draws a token per row from the filtered distribution and scores the row by it.

    With ``x = logits / temperature`` (``logits`` at temperature 0) in fp32:

    - top-p keeps the ids v for which ``sum of softmax(x)[u] over x_u > x_v`` is at most ``top_p``;
      top-k then keeps those with fewer than ``top_k`` larger ones. Equal logits stay or go
      together; the most probable id always stays;
    - ``p = softmax(x)`` over the kept ids;
    - ``token = argmax_v(x_v + gumbel_v)`` over them, a draw from ``p``, with the noise of
      :func:`head_reduce`; at temperature 0 the most probable id. The lowest id on ties;
    - ``log_confidence = ln p[token]``;
    - ``score``: 0: ``ln p[token]``; 1: ``ln(p1 - p2)`` of the two most probable ids, whichever was
      drawn; 2: ``sum p ln p``, the negative entropy. 0 and 1 are logarithms so that what is
      nearly certain can still be told apart.

    Args:
        logits: ``[R, V]`` float32, float16 or bfloat16, any row stride; V below 2^23. -inf
            excludes an id. A copy in fp32 is made: pass few rows at a time.
        temperature: 0, or positive and finite.
        top_p: in (0, 1]; 1 keeps all.
        top_k: at least 0; 0 keeps all.
        score: 0, 1 or 2, as above.
        row_index: ``[R]`` int64, ``slot * capacity + position`` of each row; -1 marks a row that is
            skipped. Needed for ``temperature > 0``.
        capacity: positions of a slot, at least 1.
        seeds, steps: ``[S]`` int64, key and step of each slot's noise. Needed for
            ``temperature > 0``.

    Returns:
        ``token [R]`` int64, ``log_confidence [R]`` fp32, ``score [R]`` fp32. A row with NaN or +inf
        or nothing but -inf gets -1, NaN, NaN; a skipped one -1, 0, 0.

    Raises:
        RuntimeError: a shape, dtype, device or number is not as above, or something that
            ``temperature > 0`` needs is missing.

    Source: Dream's ``generation_utils.py``, ``sample_tokens``.
    """
    return torch.ops.dlmcache.sample_rows(
        logits, temperature, top_p, top_k, score, row_index, capacity, seeds, steps
    )


@torch.library.register_fake("dlmcache::sample_rows")
def _(
    logits: Tensor,
    temperature: float = 0.0,
    top_p: float = 1.0,
    top_k: int = 0,
    score: int = 0,
    row_index: Tensor | None = None,
    capacity: int = 1,
    seeds: Tensor | None = None,
    steps: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    rows = (logits.shape[0],)
    return (
        logits.new_empty(rows, dtype=torch.int64),
        logits.new_empty(rows, dtype=torch.float32),
        logits.new_empty(rows, dtype=torch.float32),
    )
