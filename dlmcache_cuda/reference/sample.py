"""Plain torch twin of :mod:`dlmcache_cuda.ops.sample`."""

from __future__ import annotations

import torch
from torch import Tensor

from dlmcache_cuda.reference.head import reduce_logits


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
    """See :func:`dlmcache_cuda.ops.sample_rows`; float64 is accepted too and stays float64."""
    x = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if temperature > 0:
        x = x / temperature
    if x.numel():
        x = filter_logits(x, top_p, top_k)
    noise = 1.0 if temperature > 0 else 0.0
    token, log_confidence, *_, entropy = reduce_logits(
        x, None, noise, row_index, capacity, seeds, steps, extras=True
    )
    if score == 0:
        return token, log_confidence, log_confidence
    if score == 2:
        return token, log_confidence, -entropy
    # The two most probable ids, whatever was drawn.
    _, first, _, second, _ = reduce_logits(x, row_index=row_index, extras=True)
    gap = second - first
    margin = first + torch.where(gap < -0.5, torch.log1p(-gap.exp()), torch.log(-torch.expm1(gap)))
    return token, log_confidence, torch.where(token < 0, log_confidence, margin)


def filter_logits(x: Tensor, top_p: float, top_k: int) -> Tensor:
    """``x [R, V]`` with -inf where top-p or top-k drop an id; rows with NaN or +inf as they are."""
    larger_first = x.sort(dim=-1, descending=True).values
    p = larger_first.softmax(-1)
    rank = torch.searchsorted(-larger_first, -x)  # how many are larger
    mass = (p.cumsum(-1) - p).gather(-1, rank.clamp(max=x.shape[-1] - 1))
    keep = torch.ones_like(x, dtype=torch.bool)
    if top_p < 1:
        keep &= mass <= top_p
    if top_k > 0:
        keep &= rank < top_k
    usable = (x < torch.inf).all(-1, keepdim=True)
    return torch.where(keep | ~usable, x, -torch.inf)
