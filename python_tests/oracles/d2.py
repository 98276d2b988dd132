"""d2Cache (arXiv 2509.23094) for one sequence: N x N rollout matrices, densities by their sums."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .layers import Layers
from .model import PlainLlada
from .sequence import Candidate, Canvas, Settings, TokenIds
from .steps import (
    LayerRecord,
    StepRows,
    guided_copies,
    guided_logits,
    note_step,
    record_layers,
)


@dataclass(frozen=True)
class D2Options:
    current_k: int = 32
    rollout_p: float = 0.1
    sigma: float = 10.0
    inflate_w: int = 0
    certainty_prior: bool = True
    refresh_steps: int | None = None


def densities(known: list[bool], sigma: float) -> list[float]:
    """How much of the surroundings of each position of the generation region is known.

    A Gaussian mean over the region and as many positions on either side; what lies on the left is
    known, what lies on the right is if the last position of the region is.
    """
    size = len(known)
    values = [True] * size + known + [known[-1]] * size
    out = []
    for i in range(size, 2 * size):
        weights = [math.exp(-((i - j) ** 2) / (2 * sigma**2)) for j in range(3 * size)]
        total = sum(weight for weight, value in zip(weights, values, strict=True) if value)
        out.append(total / sum(weights))
    return out


class D2Canvas(Canvas):
    """Ranks candidates by confidence times density if ``prior`` is set."""

    def __init__(
        self, prompt: Sequence[int], settings: Settings, ids: TokenIds, options: D2Options
    ) -> None:
        super().__init__(prompt, settings, ids)
        self.options = options
        record_layers(self)

    def log_densities(self) -> dict[int, float]:
        generated = range(self.prompt_length, self.length)
        known = [self.tokens[p] != self.ids.mask for p in generated]
        values = densities(known, self.options.sigma)
        return {p: math.log(value) for p, value in zip(generated, values, strict=True)}

    def choose(self, candidates: list[Candidate], number: int | None) -> list[Candidate]:
        s = self.settings
        if not (self.options.certainty_prior and s.fixed_k and s.remasking == "low_confidence"):
            return super().choose(candidates, number)
        density = self.log_densities()
        ranked = sorted(
            (dataclasses.replace(c, score=c.score + density[c.position]) for c in candidates),
            key=lambda c: (-c.score, c.position),
        )
        chosen = ranked[:number]
        if 0 < len(chosen) < len(ranked):
            self.note(chosen[-1].score, ranked[len(chosen)].score)
        return chosen


class D2State:
    """Keys and values of one copy of the sequence, and the importance of its rows."""

    def __init__(self, layers: Layers, length: int) -> None:
        c = layers.config
        self.layers, self.length = layers, length
        self.k = layers.zeros(length, c.n_kv_heads, c.head_dim)
        self.v = layers.zeros(length, c.n_kv_heads, c.head_dim)
        self.importance: list[float] = []

    def forward(
        self, tokens: Sequence[int], rows: list[int], refresh: bool
    ) -> tuple[dict[int, torch.Tensor], StepRows]:
        step = StepRows(refresh=refresh)
        identity = torch.eye(self.length, dtype=self.layers.dtype)
        rollout = identity
        h = self.layers.embed(tokens, rows)
        for layer in range(len(self.layers)):
            q, self.k[layer][rows], self.v[layer][rows] = self.layers.project(layer, h, rows)
            attention = self.layers.attention(q, self.k[layer])
            mean = identity.clone()
            mean[rows] = attention.mean(0)
            mixed = mean + identity
            rollout = mixed / mixed.sum(-1, keepdim=True) @ rollout
            step.add_layer(rows)
            h = h + self.layers.delta(layer, h, attention, self.v[layer])
        self.importance = rollout.sum(0).tolist()
        return dict(zip(rows, h, strict=True)), step


def important_rows(
    importance: list[float], taken: set[int], part: float
) -> tuple[list[int], float]:
    """The most important rows not taken whose share of importance stays within ``part``.

    At least one. Also returns the margin of the cut, in logarithms.
    """
    rows = sorted(
        (row for row in range(len(importance)) if row not in taken),
        key=lambda row: (-importance[row], row),
    )
    total = sum(importance[row] for row in rows)
    margin, share, number = math.inf, 0.0, 0
    for n, row in enumerate(rows):
        share += importance[row] / total
        if n > 0 and part > 0:  # the first row is taken anyway
            margin = min(margin, abs(math.log(share / part)))
        if share > part:
            break
        number = n + 1
    number = max(number, min(1, len(rows)))
    if 0 < number < len(rows):
        margin = min(margin, math.log(importance[rows[number - 1]] / importance[rows[number]]))
    return rows[:number], margin


def next_rows(
    canvas: D2Canvas,
    block: tuple[int, int],
    log_confidence: dict[int, float],
    newly: list[int],
    importance: list[float],
    shift: int,
) -> list[int]:
    """The rows of a step that is to commit in ``block``."""
    o = canvas.options
    first, size = canvas.prompt_length, block[1] - block[0]
    remaining = canvas.masks(first, canvas.length)
    search_end = canvas.length
    if len(remaining) >= o.current_k:
        last = remaining[o.current_k - 1]
        search_end = first + ((last - first) // size + 1) * size
    density = canvas.log_densities()
    masks = canvas.masks(block[0], search_end)
    score = {p: log_confidence[p] + density[p] for p in masks}
    ranked = sorted(masks, key=lambda p: (p >= block[1], -score[p], p))
    chosen = ranked[: o.current_k]
    if len(chosen) < len(ranked):
        a, b = chosen[-1], ranked[len(chosen)]
        if (a < block[1]) == (b < block[1]):
            canvas.note(score[a], score[b])
    rows = {p - shift for p in chosen} | set(newly)
    important, margin = important_rows(importance, rows, o.rollout_p)
    canvas.record.margin = min(canvas.record.margin, margin)
    ordered = sorted(rows | set(important))
    filled = set(ordered)
    for a, b in zip(ordered, ordered[1:], strict=False):
        if b - a <= o.inflate_w:
            filled |= set(range(a, b))
    return sorted(filled)


@torch.no_grad()
def decode_d2(
    model: PlainLlada,
    prompt: Sequence[int],
    settings: Settings,
    ids: TokenIds,
    options: D2Options,
    shift: int = 0,
) -> LayerRecord:
    """``shift`` 1: row p predicts the token at p + 1."""
    canvas = D2Canvas(prompt, settings, ids, options)
    layers = Layers(model)
    states = [D2State(layers, canvas.length) for _ in range(guided_copies(settings))]
    log_confidence: dict[int, float] = {}
    newly: list[int] = []
    blocks = settings.blocks(len(prompt))
    for block in blocks:
        schedule = settings.schedule(len(canvas.masks(*block)), len(blocks))
        i = 0
        while canvas.masks(*block) and not canvas.stopped:
            if settings.fixed_k and (i == len(schedule) or schedule[i] == 0):
                break
            interval = options.refresh_steps
            whole = canvas.step == 0 or bool(interval and canvas.step % interval == 0)
            outs = []
            for state, tokens in zip(states, canvas.inputs(), strict=True):
                rows = list(range(canvas.length))
                if not whole:
                    rows = next_rows(canvas, block, log_confidence, newly, state.importance, shift)
                outs.append(state.forward(tokens.tolist(), rows, whole))
            note_step(canvas, [step for _, step in outs])
            masks = canvas.masks(canvas.prompt_length, canvas.length)
            computed = [p for p in masks if all(p - shift in hidden for hidden, _ in outs)]
            candidates = []
            if computed:
                hidden = [torch.stack([h[p - shift] for p in computed]) for h, _ in outs]
                logits = guided_logits(canvas, [layers.logits(h) for h in hidden])
                candidates = [
                    canvas.predict(p, row) for p, row in zip(computed, logits, strict=True)
                ]
            for c in candidates:
                log_confidence[c.position] = c.log_confidence
                if settings.temperature > 0:  # another token would have another confidence
                    canvas.note(c.token_margin, 0.0)
            candidates = [c for c in candidates if c.position < block[1]]
            canvas.commit(candidates, schedule[i] if settings.fixed_k else None)
            newly = [p for p in masks if canvas.tokens[p] != canvas.ids.mask]
            i += 1
        if canvas.stopped:
            break
    return canvas.finish()
