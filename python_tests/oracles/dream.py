"""Dream's reference loop (``_sample`` and ``sample_tokens`` of its generation_utils.py) for one
sequence, on a Dream or any other model.

Every step computes the whole canvas. Random numbers are the package's, everything else is the
published computation: sorting, filtering and softmax of full rows of logits in fp64.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from . import noise
from .model import PlainLlada
from .sequence import Record, TokenIds

ORIGIN_STREAM = 3
ALG_TEMP_STREAM = 4


@dataclass(frozen=True)
class DreamSettings:
    """The arguments of ``decode`` that matter here; ``seed`` is the sequence's own."""

    gen_length: int
    steps: int | None = None
    alg: str = "entropy"
    block_length: int | None = None
    temperature: float = 0.0
    top_p: float | None = None
    top_k: int | None = None
    alg_temp: float | None = None
    min_commit: int | None = None
    stop_at_eos: bool = False
    seed: int = 0


@dataclass(frozen=True)
class Guess:
    """What is predicted at a position: a token and how sure it is."""

    position: int
    token: int
    log_p: float
    confidence: float
    margin: float  # how far the token, and the cut of the filters, was from another one


def top_p_logits(logits: torch.Tensor, top_p: float) -> tuple[torch.Tensor, float]:
    larger_first, ids = torch.sort(logits, descending=True)
    total = torch.cumsum(larger_first.softmax(-1), -1)
    remove = total > top_p
    remove[1:] = remove[:-1].clone()
    remove[0] = False
    filtered = logits.clone()
    filtered[ids[remove]] = -math.inf
    return filtered, (total - top_p).abs().min().item()


def top_k_logits(logits: torch.Tensor, top_k: int) -> torch.Tensor:
    smallest = torch.topk(logits, min(top_k, len(logits))).values[-1]
    return torch.where(logits < smallest, -math.inf, logits)


def sample_tokens(logits: torch.Tensor, s: DreamSettings, step: int, position: int) -> Guess:
    """Token and confidence from the logits ``[V]`` that predict ``position``."""
    margin = math.inf
    if s.temperature > 0:
        logits = logits / s.temperature
    if s.top_p is not None and s.top_p < 1:
        logits, margin = top_p_logits(logits, s.top_p)
    if s.top_k is not None:
        logits = top_k_logits(logits, s.top_k)
    log_p = logits.log_softmax(-1)
    noised = logits
    if s.temperature > 0:
        # A draw from the categorical distribution, by the Gumbel-max trick.
        draw = noise.gumbel(s.seed, step, position, len(logits))
        noised = logits + torch.from_numpy(draw)
    best = torch.topk(noised, 2)
    token = int(best.indices[0])
    margin = min(margin, (best.values[0] - best.values[1]).item())
    p = log_p.exp()
    if s.alg == "topk_margin":
        first, second = torch.topk(p, 2).values.tolist()
        confidence = first - second
    elif s.alg == "entropy":
        # The reference's 1e-10 inside the logarithm only keeps it finite.
        confidence = torch.special.xlogy(p, p).sum().item()
    else:
        confidence = p[token].item()
    return Guess(position, token, log_p[token].item(), confidence, margin)


@torch.no_grad()
def decode_dream(
    model: PlainLlada, prompt: Sequence[int], settings: DreamSettings, ids: TokenIds
) -> Record:
    s = settings
    record = Record(
        commit_step=[-1] * s.gen_length,
        log_confidence=[math.nan] * s.gen_length,
    )
    tokens = torch.tensor([*prompt, *[ids.mask] * s.gen_length])
    first, length = len(prompt), len(prompt) + s.gen_length
    size = s.block_length or s.gen_length
    steps = (s.steps or s.gen_length) // (s.gen_length // size)
    # Differences of what is compared, brought back to the scale of the logits' errors.
    scale = min(1.0, s.temperature or 1.0) / 4
    times = torch.linspace(1, 1e-3, steps + 1)
    step = 0
    for end in range(first + size, length + 1, size):
        for i in range(steps):
            masks = [p for p in range(first, end) if tokens[p] == ids.mask]
            in_block = [p for p in masks if p >= end - size]
            if not in_block:
                break
            logits = model.forward(tokens[None])[0][0]
            record.rows.append(length)
            record.refresh_steps.append(step)
            record.rows_computed += length * model.config.n_layers
            margin = math.inf
            if model.config.shift:
                logits = torch.cat([logits[:1], logits[:-1]])
            guesses = [sample_tokens(logits[p], s, step, p) for p in masks]
            share = 1 - times[i + 1] / times[i]
            if s.alg == "origin":
                chance = share.item() if i < steps - 1 else 1.0
                draws = {p: noise.uniform(s.seed, step, p, ORIGIN_STREAM) for p in masks}
                chosen = [guess for guess in guesses if draws[guess.position] < chance]
                for draw in draws.values():
                    margin = min(margin, 100 * abs(draw - chance))
            else:
                count = torch.tensor(len(in_block))
                number = int(count * share) if i < steps - 1 else int(count)
                number = max(number, s.min_commit or 0)
                rank = {guess.position: guess.confidence for guess in guesses}
                unit = scale
                if s.alg_temp:
                    # torch.multinomial without replacement over softmax(confidence / alg_temp)
                    unit *= min(1.0, s.alg_temp)
                    for p, confidence in rank.items():
                        u = noise.uniform(s.seed, step, p, ALG_TEMP_STREAM)
                        rank[p] = confidence / s.alg_temp - math.log(-math.log(u))
                ranked = sorted(guesses, key=lambda guess: -rank[guess.position])
                chosen = ranked[:number]
                if 0 < number < len(ranked):
                    gap = rank[chosen[-1].position] - rank[ranked[number].position]
                    if gap > 0:  # rows with one token left tie exactly, and the lowest comes first
                        margin = min(margin, gap * unit)
            # A filter that cuts otherwise would change every rank.
            for guess in guesses if s.top_p else chosen:
                margin = min(margin, guess.margin * scale * 4)
            for guess in chosen:
                if guess.token == ids.mask:
                    record.masks_chosen += 1
                    continue
                tokens[guess.position] = guess.token
                record.commit_step[guess.position - first] = step
                record.log_confidence[guess.position - first] = guess.log_p
            record.margins.append(margin)
            step += 1
            if s.stop_at_eos and _ended(tokens[first:], ids):
                record.stop_reason = "end_of_text"
                break
        if record.stop_reason == "end_of_text":
            break
    generated = tokens[first:].tolist()
    end_at = next((g for g, token in enumerate(generated) if token in ids.end), s.gen_length)
    record.ids = [
        ids.pad if g > end_at and token == ids.mask else token for g, token in enumerate(generated)
    ]
    return record


def _ended(generated: torch.Tensor, ids: TokenIds) -> bool:
    for token in generated.tolist():
        if token in ids.end:
            return True
        if token == ids.mask:
            return False
    return False
