"""The model's head: from hidden states to a predicted token and its confidence."""

from __future__ import annotations

import torch
from torch import Tensor

from dlmcache_cuda import _extension  # noqa: F401  (registers the operators)


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
    """Predicts a token per row without ever holding the logits of the whole vocabulary.

    With ``l = hidden @ weight.T`` (in the dtype of ``hidden``, as LLaDA's head), in chunks of the
    vocabulary:

    - ``token[r] = argmax_v(l[r, v] + temperature * gumbel[r, v])``, the lowest id on ties; LLaDA's
      ``exp(l) / (-ln U)^temperature`` has the same argmax;
    - ``log_confidence[r] = ln softmax(l[r])[token[r]]``, without noise and temperature. It is
      lossless near 0: the sum over all ids but the largest is kept apart, so that a confidence of
      1 - 1e-30 is told from 1;
    - ``second_token[r]``: the most probable other id, ``second_log_confidence[r]`` its logarithm;
    - ``entropy[r] = -sum_v p ln p`` of the same softmax, natural logarithm.

    Args:
        hidden: ``[R, W]`` float32, float16 or bfloat16, after the last norm; any row stride.
        weight: ``[V, W]``, dtype of ``hidden``; any row stride.
        suppress_ids: ``[n]`` int64, excluded from everything (``logits_eos_inf``). Default: none.
        confidence_suppress_ids: ``[n]`` int64, excluded from the softmax but not from the choice
            (``confidence_eos_eot_inf``): as a token such an id has log-confidence -inf. Default:
            none.
        temperature: factor of the Gumbel noise, finite and at least 0; 0 is plain argmax.
        row_index: ``[R]`` int64, ``slot * capacity + position`` of each row; -1 marks a row that is
            skipped. Needed for ``temperature > 0``.
        capacity: positions of a slot, at least 1.
        seeds: ``[S]`` int64, the key of each slot's noise. Needed for ``temperature > 0``.
        steps: ``[S]`` int64, the step of each slot. Needed for ``temperature > 0``.
        extras: whether the last three results are wanted.

    Returns:
        ``token [R]`` int64, ``log_confidence [R]`` fp32, ``second_token [R]`` int64,
        ``second_log_confidence [R]`` fp32, ``entropy [R]`` fp32; the last three ``[0]`` unless
        ``extras``. Special rows:

        - a NaN or +inf among the logits that are not suppressed, or nothing to choose from: -1,
          NaN, -1, NaN, NaN;
        - no other id with a probability above 0: second token -1 with log-confidence -inf;
        - skipped: -1, 0, -1, 0, 0.

    Raises:
        RuntimeError: a shape, dtype, device, ``temperature``, ``capacity`` or (on a CPU) an id or
            index is not as above, or something that ``temperature > 0`` needs is missing.
    """
    return torch.ops.dlmcache.head_reduce(
        hidden,
        weight,
        suppress_ids,
        confidence_suppress_ids,
        temperature,
        row_index,
        capacity,
        seeds,
        steps,
        extras,
    )


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
    """:func:`head_reduce` of logits that are there already.

    Args:
        logits: ``[R, V]`` float32, float16 or bfloat16; any row stride. They stay as they are.

    The other arguments, results and errors are those of :func:`head_reduce`.
    """
    return torch.ops.dlmcache.logits_reduce(
        logits,
        suppress_ids,
        confidence_suppress_ids,
        temperature,
        row_index,
        capacity,
        seeds,
        steps,
        extras,
    )


@torch.library.register_fake("dlmcache::head_reduce")
def _(
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
    return _fake_results(hidden, extras)


@torch.library.register_fake("dlmcache::logits_reduce")
def _(
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
    return _fake_results(logits, extras)


def _fake_results(like: Tensor, extras: bool) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    rows = like.shape[0]
    more = rows if extras else 0
    return (
        like.new_empty((rows,), dtype=torch.int64),
        like.new_empty((rows,), dtype=torch.float32),
        like.new_empty((more,), dtype=torch.int64),
        like.new_empty((more,), dtype=torch.float32),
        like.new_empty((more,), dtype=torch.float32),
    )
