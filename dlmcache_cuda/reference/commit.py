"""Plain torch twin of :mod:`dlmcache_cuda.ops.commit`."""

from __future__ import annotations

import torch
from torch import Tensor


def commit_(
    tokens: Tensor,
    commit_step: Tensor,
    commit_log_confidence: Tensor,
    row_index: Tensor,
    cu_rows: Tensor,
    token: Tensor,
    log_confidence: Tensor,
    score: Tensor | None,
    num_commit: Tensor,
    steps: Tensor,
    spans: Tensor,
    end_ids: Tensor,
    mask_id: int,
    capacity: int,
    rule: int,
    rule_value: float,
) -> tuple[Tensor, Tensor]:
    """See :func:`dlmcache_cuda.ops.commit_`."""
    if score is None:
        score = log_confidence
    num_slots = cu_rows.shape[0] - 1
    committed = torch.zeros(row_index.shape[0], dtype=torch.bool, device=tokens.device)
    status = tokens.new_zeros((num_slots, 5))
    for slot in range(num_slots):
        gen_begin, gen_end, block_begin, block_end = spans[slot].tolist()
        if gen_begin >= gen_end:
            continue
        part = slice(int(cu_rows[slot]), int(cu_rows[slot + 1]))
        used = row_index[part] >= 0
        valid = used & (token[part] >= 0) & ~log_confidence[part].isnan() & ~score[part].isnan()

        entries = part.start + valid.nonzero().flatten()
        entries = entries[score[entries].argsort(descending=True, stable=True)]
        count = _num_chosen(log_confidence[entries], int(num_commit[slot]), rule, rule_value)
        chosen = entries[:count]
        written = chosen[token[chosen] != mask_id]
        committed[written] = True
        rows = row_index[written]
        tokens[rows] = token[written]
        commit_step[rows] = steps[slot]
        commit_log_confidence[rows] = log_confidence[written]

        canvas = tokens[slot * capacity : (slot + 1) * capacity]
        ends = torch.isin(canvas[gen_begin:gen_end], end_ids).nonzero().flatten()
        first_end = gen_begin + int(ends[0]) if len(ends) else gen_end
        status[slot, 0] = len(written)
        status[slot, 1] = (canvas[block_begin:block_end] == mask_id).sum()
        status[slot, 2] = (canvas[gen_begin:first_end] == mask_id).sum()
        status[slot, 3] = first_end
        status[slot, 4] = (used & ~valid).sum()
    return committed, status


def _num_chosen(log_confidence: Tensor, num_commit: int, rule: int, rule_value: float) -> int:
    """How many of the sorted candidates a rule chooses."""
    if num_commit <= 0 or len(log_confidence) == 0:
        return 0
    if rule == 0:
        return min(num_commit, len(log_confidence))
    if rule == 1:
        # The operator compares in float32.
        passed = log_confidence.float() >= torch.tensor(rule_value, dtype=torch.float32)
    else:
        n = torch.arange(1, len(log_confidence) + 1, device=log_confidence.device)
        passed = (n + 1) * -torch.expm1(log_confidence.double()) < rule_value
    failed = (~passed).nonzero().flatten()
    return max(1, int(failed[0]) if len(failed) else len(passed))
