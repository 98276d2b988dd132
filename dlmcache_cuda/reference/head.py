"""Plain torch twin of :mod:`dlmcache_cuda.ops.head`: the logits of the whole vocabulary at once."""

from __future__ import annotations

import torch
from torch import Tensor

from dlmcache_cuda.reference.random import gumbel_noise


def head_reduce(
    hidden: Tensor,
    weight: Tensor,
    suppress_ids: Tensor | None = None,
    confidence_suppress_ids: Tensor | None = None,
    temperature: float = 0.0,
    row_index: Tensor | None = None,
    capacity: int = 1,
    seeds: Tensor | None = None,
    steps: Tensor | None = None,
    extras: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See :func:`dlmcache_cuda.ops.head_reduce`; float64 is accepted too and stays float64."""
    return logits_reduce(
        hidden @ weight.T, suppress_ids, confidence_suppress_ids, temperature, row_index, capacity,
        seeds, steps, extras,
    )  # fmt: skip


def logits_reduce(
    logits: Tensor,
    suppress_ids: Tensor | None = None,
    confidence_suppress_ids: Tensor | None = None,
    temperature: float = 0.0,
    row_index: Tensor | None = None,
    capacity: int = 1,
    seeds: Tensor | None = None,
    steps: Tensor | None = None,
    extras: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See :func:`dlmcache_cuda.ops.logits_reduce`; float64 is accepted too and stays float64."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32), copy=True)
    if suppress_ids is not None:
        logits[:, suppress_ids] = -torch.inf
    return reduce_logits(
        logits, confidence_suppress_ids, temperature, row_index, capacity, seeds, steps, extras
    )


def reduce_logits(
    logits: Tensor,
    confidence_suppress_ids: Tensor | None = None,
    temperature: float = 0.0,
    row_index: Tensor | None = None,
    capacity: int = 1,
    seeds: Tensor | None = None,
    steps: Tensor | None = None,
    extras: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What ``head_reduce`` makes of logits ``[R, V]`` (-inf: excluded from everything)."""
    rows, vocab = logits.shape
    used = torch.ones(rows, dtype=torch.bool, device=logits.device)
    if row_index is not None:
        used = row_index >= 0
    broken = (logits.isnan() | logits.isposinf()).any(-1) | logits.isneginf().all(-1)

    noised = logits
    if temperature > 0 and used.any():
        place = row_index.clamp(min=0)
        slot = place // capacity
        noise = gumbel_noise(seeds[slot], steps[slot], place % capacity, vocab)
        noised = logits + temperature * noise.to(logits.dtype)
    token = noised.argmax(-1)  # the lowest id on ties

    inside = logits.clone()
    if confidence_suppress_ids is not None:
        inside[:, confidence_suppress_ids] = -torch.inf
    largest, largest_id = inside.max(-1, keepdim=True)
    gap = torch.where(inside.isneginf(), 0.0, largest - inside)
    others = torch.where(inside.isneginf(), 0.0, torch.exp(-gap)).scatter(-1, largest_id, 0.0)
    rest = others.sum(-1)
    log_p = torch.where(inside.isneginf(), -torch.inf, -gap - torch.log1p(rest)[:, None])
    log_confidence = log_p.gather(-1, token[:, None])[:, 0]
    without_token = log_p.scatter(-1, token[:, None], -torch.inf)
    second_log_confidence, second_token = without_token.max(-1)
    second_token = torch.where(second_log_confidence.isneginf(), -1, second_token)
    entropy = torch.log1p(rest) + (others * gap).sum(-1) / (1 + rest)

    def finish(values: Tensor, when_broken: float, when_unused: float) -> Tensor:
        values = torch.where(broken, torch.full_like(values, when_broken), values)
        return torch.where(used, values, torch.full_like(values, when_unused))

    more = slice(None) if extras else slice(0, 0)
    # Scores are fp32 for every storage type; float64, the exact reference, stays as it is.
    return (
        finish(token, -1, -1),
        finish(log_confidence, torch.nan, 0.0),
        finish(second_token, -1, -1)[more],
        finish(second_log_confidence, torch.nan, 0.0)[more],
        finish(entropy, torch.nan, 0.0)[more],
    )
