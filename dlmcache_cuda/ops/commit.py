"""Committing candidates to the canvas."""

from __future__ import annotations

import torch
from torch import Tensor

from dlmcache_cuda import _extension  # noqa: F401  (registers the operators)

RULE_FIXED = 0
RULE_THRESHOLD = 1
RULE_FACTOR = 2


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
    """Commits candidates of every slot by one of three rules and reports what is left.

    The candidates of a slot are sorted by score, highest first, equal scores by their order in the
    list. With ``c_n`` the confidence (not its logarithm) of number ``n = 1, 2, ...``, the rule says
    how many of them are chosen:

    - 0, fixed: the first ``num_commit[s]``, or all when there are fewer;
    - 1, threshold: the first, and every one with ``log_confidence >= rule_value`` (Fast-dLLM);
    - 2, factor: the longest prefix in which ``(n + 1) (1 - c_n) < rule_value`` for every ``n``,
      at least one (Fast-dLLM v1.1, without the off-by-one of dInfer's and d2Cache's loops).

    A chosen candidate is written: its token, ``steps[s]`` and its log-confidence. One that predicts
    ``mask_id`` uses up its place but is not written, as in LLaDA's loop: it stays a candidate.
    Candidates with a negative token, or whose log-confidence or score is NaN, are invalid: never
    chosen, but counted.

    Args:
        tokens: ``[S * capacity]`` int64 canvas, **mutated**.
        commit_step: ``[S * capacity]`` int64, **mutated**.
        commit_log_confidence: ``[S * capacity]`` float32, **mutated**.
        row_index: ``[R]`` int64 rows of the candidates, ascending, each once; -1 is unused.
        cu_rows: ``[S + 1]`` int64, which part of the list belongs to which slot.
        token: ``[R]`` int64 predicted tokens.
        log_confidence: ``[R]`` float32, natural logarithm of the confidence; -inf is legal and
            ranks lowest.
        score: ``[R]`` float32, what rule 0 sorts by. Default: ``log_confidence``. The other rules
            accept no score.
        num_commit: ``[S]`` int64. 0 or less: the slot commits nothing, whatever the rule.
        steps: ``[S]`` int64, the number of the current step.
        spans: ``[S, 4]`` int64 positions ``(gen_begin, gen_end, block_begin, block_end)``. A slot
            with ``gen_begin >= gen_end`` is empty: it commits nothing and its status is zeros.
        end_ids: ``[E]`` int64 tokens that end a sequence; may be empty.
        mask_id: the token that stands for "not decided yet".
        capacity: positions of one slot.
        rule: 0, 1 or 2.
        rule_value: ``ln(threshold)`` for rule 1 (rounded to float32 before it is compared), the
            factor for rule 2; ignored by rule 0.

    Returns:
        ``committed`` ``[R]`` bool, the candidates that were written; and ``status`` ``[S, 5]``
        int64, after the commit: number of candidates written, masks left in the block, masks left
        between ``gen_begin`` and the first end, position of the first end (the first token of
        ``end_ids`` in the generation span; ``gen_end`` if there is none), number of invalid
        candidates.

    Raises:
        RuntimeError: an argument is not as above; row and span ranges are checked on a CPU only.
    """
    return torch.ops.dlmcache.commit_(
        tokens, commit_step, commit_log_confidence, row_index, cu_rows, token, log_confidence,
        score, num_commit, steps, spans, end_ids, mask_id, capacity, rule, rule_value,
    )  # fmt: skip


@torch.library.register_fake("dlmcache::commit_")
def _(
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
    committed = tokens.new_empty((row_index.shape[0],), dtype=torch.bool)
    return committed, tokens.new_empty((cu_rows.shape[0] - 1, 5))
