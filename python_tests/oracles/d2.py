"""d2Cache (arXiv 2509.23094) for one sequence: N x N rollout matrices, densities by their sums."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .elastic import project
from .model import PlainLlada
from .sequence import Candidate, Canvas, Record, Settings, TokenIds, Turn


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
    """Ranks candidates by confidence times density, with the certainty prior."""

    def __init__(
        self,
        prompt: Sequence[int],
        settings: Settings,
        ids: TokenIds,
        shift: int,
        options: D2Options,
    ) -> None:
        super().__init__(prompt, settings, ids, shift)
        self.options = options

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


class D2Pass:
    """One canvas with its keys and values: the sequence, or its twin under guidance."""

    def __init__(self, model: PlainLlada, length: int) -> None:
        self.model, self.length = model, length
        self.k, self.v = model.empty_cache(1, length)
        self.importance: list[float] = []  # of each row in the step just made

    def forward(self, ids: torch.Tensor, rows: list[int]) -> torch.Tensor:
        """Tokens ``[1, N]`` -> logits ``[R, V]``."""
        model = self.model
        identity = torch.eye(self.length).double()
        rollout = identity
        h = model.embed(ids[:, rows])
        for layer in range(model.config.n_layers):
            q, k, v = project(model, layer, h, rows)
            self.k[layer][:, rows] = k
            self.v[layer][:, rows] = v
            mean = identity.clone()
            mean[rows] = model.probabilities(q, self.k[layer])[0].mean(0)
            mixed = mean + identity
            rollout = mixed / mixed.sum(-1, keepdim=True) @ rollout
            h = h + model.attend(layer, q, self.k[layer], self.v[layer])
            h = h + model.feed_forward(layer, h)
        self.importance = rollout.sum(0).tolist()
        return model.logits(h)[0]


def important_rows(
    importance: list[float], taken: set[int], part: float
) -> tuple[list[int], float]:
    """The most important rows not taken whose share of the importance stays within ``part``.

    At least one. Also how close the cut is, as a difference of logarithms.
    """
    rows = [row for row in range(len(importance)) if row not in taken]
    rows.sort(key=lambda row: (-importance[row], row))
    total = sum(importance[row] for row in rows)
    gap, share, number = math.inf, 0.0, 0
    for n, row in enumerate(rows):
        share += importance[row] / total
        if n > 0 and part > 0:  # the first row is taken anyway
            gap = min(gap, abs(math.log(share / part)))
        if share > part:
            break
        number = n + 1
    number = max(number, min(1, len(rows)))
    if 0 < number < len(rows):
        gap = min(gap, math.log(importance[rows[number - 1]] / importance[rows[number]]))
    return rows[:number], gap


def certain_masks(
    canvas: D2Canvas, turn: Turn, log_confidence: dict[int, float]
) -> tuple[list[int], float]:
    """The masks with most confidence times density, those of the block before those behind it.

    They are sought as far as the end of the block that has the ``current_k``-th mask of all, and
    in the current block at any rate. Also how close the cut is.
    """
    number, first = canvas.options.current_k, canvas.prompt_length
    size = turn.end - turn.begin
    remaining = canvas.masks(first, canvas.length)
    end = canvas.length
    if len(remaining) >= number:
        blocks = (remaining[number - 1] - first) // size + 1
        end = min(max(first + blocks * size, turn.end), canvas.length)
    density = canvas.log_densities()
    masks = canvas.masks(turn.begin, end)
    score = {p: log_confidence[p] + density[p] for p in masks}
    masks.sort(key=lambda p: (p >= turn.end, -score[p], p))
    gap = math.inf
    if number < len(masks):
        last, left = masks[number - 1], masks[number]
        certain = (last < turn.end) != (left < turn.end)
        if not certain and math.isfinite(score[last]) and math.isfinite(score[left]):
            gap = score[last] - score[left]
    return masks[:number], gap


def inflated(rows: set[int], width: int) -> list[int]:
    """With the gaps between neighbours at most ``width`` apart filled."""
    ordered = sorted(rows)
    filled = set(ordered)
    for a, b in zip(ordered, ordered[1:], strict=False):
        if b - a <= width:
            filled |= set(range(a, b))
    return sorted(filled)


@torch.no_grad()
def decode_d2(
    model: PlainLlada,
    prompt: Sequence[int],
    settings: Settings,
    ids: TokenIds,
    options: D2Options = D2Options(),
) -> Record:
    """With guidance the sequence itself, not its twin, says which rows are important."""
    canvas = D2Canvas(prompt, settings, ids, model.config.shift, options)
    shift, first = canvas.shift, canvas.prompt_length
    passes = [D2Pass(model, canvas.length) for _ in range(canvas.passes)]
    log_confidence: dict[int, float] = {}
    newly: list[int] = []
    for turn in canvas.turns():
        interval = options.refresh_steps
        whole = canvas.step == 0 or bool(interval and canvas.step % interval == 0)
        rows, gap = list(range(canvas.length)), math.inf
        if not whole:
            certain, gap = certain_masks(canvas, turn, log_confidence)
            taken = {p - shift for p in certain} | set(newly)
            important, cut = important_rows(passes[0].importance, taken, options.rollout_p)
            gap = min(gap, cut)
            rows = inflated(taken | set(important), options.inflate_w)
        inputs = canvas.inputs()
        logits = torch.stack(
            [one.forward(ids[None], rows) for one, ids in zip(passes, inputs, strict=True)]
        )
        masks = canvas.masks(first, canvas.length)
        guided = canvas.guided(logits)
        for p in masks:
            if p - shift in rows:
                prediction = canvas.predict(p, guided[rows.index(p - shift)], p - shift)
                log_confidence[p] = prediction.log_confidence
                if settings.temperature > 0:  # another token would have another confidence
                    gap = min(gap, prediction.token_margin)
        canvas.computed([rows] * model.config.n_layers, whole, row_gap=gap)
        canvas.decide(turn, rows, logits)
        newly = [p for p in masks if canvas.tokens[p] != canvas.ids.mask]
    return canvas.finish()
