"""Log-probabilities over the whole vocabulary, where a confidence leaves some tokens out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def whole_log_prob(
    normed: Tensor,
    head: Tensor,
    token: Tensor,
    reference: Tensor,
    reference_log_confidence: Tensor,
    suppress_ids: Tensor | None,
    confidence_suppress_ids: Tensor | None,
) -> Tensor:
    """``[Q]`` fp32: ``ln softmax(normed @ head.T)[token]`` over all ids, suppressed ones too.

    No second pass over the vocabulary: the sum that confidences are divided by follows from any
    token whose confidence is known, and only the few suppressed ids have to be added to it.

    Args:
        normed: ``[Q, W]`` what the head reads.
        head: ``[V, W]``.
        token: ``[Q]`` int64; -1 gives what ``reference_log_confidence`` is there.
        reference: ``[Q]`` int64 tokens that have a confidence, or -1.
        reference_log_confidence: ``[Q]`` fp32 of these; -inf where all others were suppressed.
        suppress_ids, confidence_suppress_ids: what ``ops.head_reduce`` was given.
    """
    suppressed = []
    if suppress_ids is not None:
        suppressed.append(F.linear(normed, head[suppress_ids]).float())
    if confidence_suppress_ids is not None:
        logits = F.linear(normed, head[confidence_suppress_ids]).float()
        if suppress_ids is not None:
            twice = (confidence_suppress_ids[:, None] == suppress_ids).any(1)
            logits = logits.masked_fill(twice, -torch.inf)
        suppressed.append(logits)
    known = _logit(normed, head, reference) - reference_log_confidence
    known = known.masked_fill(reference_log_confidence.isneginf(), -torch.inf)
    total = torch.cat([known[:, None], *suppressed], dim=1).logsumexp(1)
    log_prob = _logit(normed, head, token) - total
    return torch.where(token < 0, reference_log_confidence, log_prob)


def _logit(normed: Tensor, head: Tensor, token: Tensor) -> Tensor:
    """``[Q]``: the logit of one token per row, rounded as the head rounds it."""
    rows = F.embedding(token.clamp(min=0), head)
    return (normed.float() * rows.float()).sum(1).to(normed.dtype).float()
