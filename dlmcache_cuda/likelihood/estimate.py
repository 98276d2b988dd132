"""LLaDA's Monte-Carlo estimate of the log-likelihood of an answer."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dlmcache_cuda.likelihood.mask_sets import MaskSets, all_mask_sets, draw_mask_sets
from dlmcache_cuda.model import Llada

DEFAULT_MC_NUM = 128
DEFAULT_MC_BATCH_SIZE = 32
# Rows of the head at once: 128 MiB of fp32 logits with the largest vocabulary.
_HEAD_ROWS = 256


@dataclass(frozen=True, slots=True)
class _Canvas:
    """One masked copy of one pair."""

    pair: int
    masked: Tensor
    """``[L]`` bool."""
    weight: float


@torch.no_grad()
def log_likelihood(
    model: Llada,
    pairs: Sequence[tuple[Any, Any]],
    *,
    mc_num: int = DEFAULT_MC_NUM,
    mc_batch_size: int | None = None,
    cfg_scale: float = 0.0,
    seed: int = 0,
    enumerate_short: bool = True,
    progress: Callable[[int], None] | None = None,
) -> list[float]:
    """Estimates log p(answer | prompt) in nats, for each pair.

    With L tokens in the answer, l of them masked, l uniform over 1 to L, the positions uniform
    among those of that number, the estimate is the mean of ``L / l`` times the summed
    log-probabilities of the masked tokens. Its expectation is a lower bound of the log-likelihood,
    exact for a single token. Forwards are full ones: no cache, nothing approximate.

    Args:
        model: from :func:`dlmcache_cuda.load`.
        pairs: token ids of prompt and answer, 1-D tensors or lists. A prompt may be empty, unless
            the model predicts the following token (Dream). An answer without tokens gets 0.
        mc_num: draws per pair; 128 in LLaDA's evaluation, which takes 1 where answers are one
            token.
        mc_batch_size: canvases of a forward, and draws whose numbers of masks are spread evenly
            (both as in LLaDA's evaluation, where it is ``batch_size``); divides ``mc_num``. A
            forward mixes pairs where they have fewer. Default: the largest divisor of ``mc_num``
            up to 32.
        cfg_scale: 0 to 1e6, weight of guidance by a masked prompt; 0 is off. Twice the work.
        seed: in [0, 2^63). The draws of a pair depend on it and on the pair alone.
        enumerate_short: take every set of masked positions, once, where that is no more work than
            ``mc_num`` draws (``2^L - 1 <= mc_num``): the expectation itself, without noise. Off:
            draw always, as LLaDA does.
        progress: called with a number of pairs when they are done.

    Raises:
        TypeError, ValueError: an argument is not as above; nothing was computed.

    Source: LLaDA (arXiv 2502.09992), appendix, algorithm 3, and its ``eval_llada.py``.
    """
    mc_num = _integer("mc_num", mc_num, 1)
    mc_batch_size = _mc_batch_size(mc_batch_size, mc_num)
    seed = _integer("seed", seed, 0)
    number = isinstance(cfg_scale, Real) and not isinstance(cfg_scale, bool)
    if not number or not 0 <= cfg_scale <= 1e6:  # as decode takes it
        raise ValueError(f"cfg_scale must be a number in [0, 1e6], got {cfg_scale!r}")
    cfg_scale = float(cfg_scale)
    checked = [_pair(model, pair, index) for index, pair in enumerate(pairs)]
    # Long ones first: memory that does not suffice is found out at once, and forwards hold
    # canvases of like lengths.
    order = sorted(range(len(checked)), key=lambda index: -sum(map(len, checked[index])))

    def canvases() -> Iterator[_Canvas]:
        for index in order:
            sets = _sets(*checked[index], mc_num, mc_batch_size, seed, enumerate_short)
            for masked, weight in zip(sets.masked, sets.weight.tolist(), strict=True):
                yield _Canvas(index, masked, weight)

    sums = [0.0] * len(checked)
    done, left = 0, canvases()
    while batch := list(itertools.islice(left, mc_batch_size)):
        for canvas, value in zip(batch, _evaluate(model, checked, batch, cfg_scale), strict=True):
            sums[canvas.pair] += canvas.weight * value
        if progress is not None:
            finished = order.index(batch[-1].pair)
            progress(finished - done)
            done = finished
    if progress is not None:
        progress(len(checked) - done)
    return sums


def _integer(name: str, value: Any, minimum: int) -> int:
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer >= {minimum}, got {value!r}")
    if not minimum <= value < 2**63:
        raise ValueError(f"{name} must be an integer >= {minimum} and < 2^63, got {value}")
    return int(value)


def _mc_batch_size(value: int | None, mc_num: int) -> int:
    if value is None:
        limit = min(DEFAULT_MC_BATCH_SIZE, mc_num)
        return next(size for size in range(limit, 0, -1) if mc_num % size == 0)
    value = _integer("mc_batch_size", value, 1)
    if mc_num % value:
        raise ValueError(f"mc_batch_size must divide mc_num ({mc_num}), got {value}")
    return value


def _pair(model: Llada, pair: Any, index: int) -> tuple[Tensor, Tensor]:
    name = f"pairs[{index}]"
    if not isinstance(pair, Sequence) or len(pair) != 2:
        raise TypeError(f"{name} must be token ids of prompt and answer, got {pair!r}")
    prompt, answer = (torch.as_tensor(ids, dtype=torch.int64, device="cpu") for ids in pair)
    if prompt.dim() != 1 or answer.dim() != 1:
        raise ValueError(f"{name} must hold two 1-D lists of token ids")
    vocab, limit = model.config.embedding_size, model.config.max_sequence_length
    both = torch.cat([prompt, answer])
    if len(both) and not 0 <= int(both.min()) <= int(both.max()) < vocab:
        raise ValueError(f"{name}: token ids of this model are 0 to {vocab - 1}")
    if bool((both == model.mask_token_id).any()):
        raise ValueError(f"{name} holds the mask token ({model.mask_token_id})")
    if len(both) > limit:
        raise ValueError(
            f"{name} has {len(prompt)} + {len(answer)} tokens; max_sequence_length of this model "
            f"is {limit}"
        )
    if model.shift and not len(prompt):
        raise ValueError(
            f"{name} has no prompt, and this model ({model.config.model_type}) predicts following "
            "tokens only: give it one token at least"
        )
    return prompt, answer


def _sets(
    prompt: Tensor,
    answer: Tensor,
    mc_num: int,
    mc_batch_size: int,
    seed: int,
    enumerate_short: bool,
) -> MaskSets:
    length = len(answer)
    if length == 0:
        return MaskSets(torch.zeros((0, 0), dtype=torch.bool), torch.zeros(0))
    if enumerate_short and 2**length - 1 <= mc_num:
        return all_mask_sets(length)
    # By content, not by place: the same in whatever batch and on whatever rank.
    content = f"{seed} {prompt.tolist()} {answer.tolist()}".encode()
    number = int.from_bytes(hashlib.sha256(content).digest()[:7], "little")
    return draw_mask_sets(length, mc_num, mc_batch_size, torch.Generator().manual_seed(number))


def _evaluate(
    model: Llada,
    pairs: Sequence[tuple[Tensor, Tensor]],
    batch: Sequence[_Canvas],
    cfg_scale: float,
) -> list[float]:
    """The summed log-probabilities of the masked tokens of every canvas."""
    tokens, places, targets, counts, unconditional, begin = [], [], [], [], [], 0
    for canvas in batch:
        prompt, answer = pairs[canvas.pair]
        noisy = answer.masked_fill(canvas.masked, model.mask_token_id)
        tokens.append(torch.cat([prompt, noisy]).to(model.device))
        unconditional.append(
            torch.cat([torch.full_like(prompt, model.mask_token_id), noisy]).to(model.device)
        )
        positions = canvas.masked.nonzero().flatten()
        places.append(positions + (begin + len(prompt) - model.shift))
        targets.append(answer[positions])
        counts.append(len(positions))
        begin += len(prompt) + len(answer)
    at = torch.cat(places).to(model.device)
    wanted = torch.cat(targets).to(model.device)
    guided = cfg_scale > 0
    _, hidden = model.forward_canvases(tokens + unconditional if guided else tokens)
    values = []
    for rows, target in zip(at.split(_HEAD_ROWS), wanted.split(_HEAD_ROWS), strict=True):
        if guided:
            normed = model.guided(hidden, rows, rows + begin, cfg_scale)
        else:
            normed = model.normed(hidden, rows)
        logits = model.head_logits(normed).float()
        values.append(-F.cross_entropy(logits, target, reduction="none"))
    by_canvas = torch.cat(values).double().cpu().split(counts)
    return [float(part.sum()) for part in by_canvas]
