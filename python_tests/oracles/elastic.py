"""Elastic-Cache (arXiv 2510.14973) for one sequence, as its published code computes.

Keeps the layer inputs, queries, keys and values of every position of every layer, a copy of the
keys that a layer overwrites, and all attention probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from .model import PlainLlada
from .sequence import Canvas, Record, Settings, TokenIds


@dataclass(frozen=True)
class ElasticOptions:
    gamma: float = 0.9
    window_length: int | None = 16
    track_num: int = 1
    block_caching: bool = True
    similarity: str = "heads"
    eos_cut: bool = True
    refresh_steps: int | None = None
    mask_is_final: bool = True


@dataclass
class Step:
    """What one pass did in one step. ``gap``: how close its closest decision was to another one."""

    layer_rows: list[list[int]] = field(default_factory=list)
    boundary: int | None = None  # the layer above the one whose test failed
    similarities: list[float | None] = field(default_factory=list)  # None: not tested
    tracked: list[frozenset[int]] = field(default_factory=list)
    gap: float = math.inf

    def note(self, distance: float) -> None:
        self.gap = min(self.gap, abs(distance))

    def layer(self, rows: list[int], similarity: float | None, tracked: list[int]) -> None:
        self.layer_rows.append(rows)
        self.similarities.append(similarity)
        self.tracked.append(frozenset(tracked))


def project(
    model: PlainLlada, layer: int, h: torch.Tensor, rows: list[int]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rotated queries, rotated keys and values of layer inputs ``h [1, R, D]``."""
    u, positions = model.attention_input(layer, h), torch.tensor(rows)
    q, k, v = (model.project(layer, u, which) for which in "qkv")
    return model.rotate(q, positions), model.rotate(k, positions), v


def attention_similarity(old: torch.Tensor, new: torch.Tensor, kind: str) -> float:
    """One number for two attentions ``[H, T, N]`` of the tracked rows."""
    if kind == "heads":  # the code: cosine over heads, for each row and key
        norms = old.norm(dim=0).clamp_min(1e-8) * new.norm(dim=0).clamp_min(1e-8)
        return ((old * new).sum(0) / norms).mean().item()
    norms = old.norm(dim=-1) * new.norm(dim=-1)  # the paper: cosine over keys
    return ((old * new).sum(-1) / norms).mean().item()


def most_attended(
    attention: torch.Tensor, masked: set[int], number: int
) -> tuple[list[int], float]:
    """The ``number`` unmasked keys to which all heads and rows of ``[H, R, N]`` attend most.

    Also how much more attention, as a logarithm of the ratio, the last of them gets than the first
    of the others.
    """
    mass = attention.sum((0, 1)).tolist()
    keys = [key for key in range(len(mass)) if key not in masked]
    keys.sort(key=lambda key: (-mass[key], key))
    gap = math.inf
    if number < len(keys):
        gap = math.log(mass[keys[number - 1]] / mass[keys[number]])
    return keys[:number], gap


class ElasticPass:
    """One canvas with its caches: the sequence, or its twin with masked prompt under guidance."""

    def __init__(self, model: PlainLlada, options: ElasticOptions, length: int) -> None:
        c = model.config
        self.model, self.options, self.length = model, options, length
        self.tracked: list[int] = []
        self.x = [torch.zeros(1, length, c.d_model).double() for _ in range(c.n_layers)]
        self.q = [torch.zeros(1, length, c.n_heads, c.head_dim).double() for _ in self.x]
        self.k, self.v = model.empty_cache(1, length)

    def forward(
        self,
        ids: torch.Tensor,
        newly: list[int],
        queries: list[int],
        masked: set[int],
        whole: bool,
    ) -> tuple[list[int], torch.Tensor, Step]:
        """Tokens ``[1, N]`` -> the rows present at the end, their states ``[1, R, D]``, what was
        done. ``queries``: the rows whose attention says what is tracked next."""
        everything = list(range(self.length))
        n_layers = self.model.config.n_layers
        step = Step()
        rows = everything if whole else sorted({*self.tracked, *newly, *queries})
        start = -1 if whole else n_layers
        most: set[int] = set()
        h = self.model.embed(ids[:, rows])
        for layer in range(n_layers):
            if layer == start:
                self.x[layer][:, rows] = h
                rows, h = everything, self.x[layer].clone()
            self.x[layer][:, rows] = h
            old_keys = self.k[layer].clone()
            old_queries = self.q[layer][:, self.tracked].clone()
            q, k, v = project(self.model, layer, h, rows)
            self.q[layer][:, rows] = q
            self.k[layer][:, rows] = k
            self.v[layer][:, rows] = v
            attention = self.model.probabilities(q, self.k[layer])[0]
            similarity = None
            if layer < start:
                old = self.model.probabilities(old_queries, old_keys)[0]
                new = attention[:, [rows.index(row) for row in self.tracked]]
                similarity = attention_similarity(old, new, self.options.similarity)
                step.note(similarity - self.options.gamma)
                if similarity < self.options.gamma:
                    start = step.boundary = layer + 1
            found, gap = most_attended(
                attention[:, [rows.index(row) for row in queries]], masked, self.options.track_num
            )
            most |= set(found)
            step.note(gap)
            step.layer(rows, similarity, found)
            h = h + self.model.attend(layer, q, self.k[layer], self.v[layer])
            h = h + self.model.feed_forward(layer, h)
        self.tracked = sorted(most)
        return rows, h, step


@torch.no_grad()
def decode_elastic(
    model: PlainLlada,
    prompt: Sequence[int],
    settings: Settings,
    ids: TokenIds,
    options: ElasticOptions = ElasticOptions(),
) -> Record:
    canvas = Canvas(prompt, settings, ids, model.config.shift)
    passes = [ElasticPass(model, options, canvas.length) for _ in range(canvas.passes)]
    return decode_windows(model, canvas, options, [one.forward for one in passes])


def decode_windows(
    model: PlainLlada,
    canvas: Canvas,
    options: Any,
    forwards: list[Callable[..., tuple[list[int], torch.Tensor, Step]]],
    delay: int = 1,
) -> Record:
    """Elastic-Cache's steps; one function of ``forwards`` computes a step of one pass.

    ``delay``: for how many steps a committed position stays among the rows.
    """
    commits: list[list[int]] = []
    cut = False
    canvas.mask_is_final = options.mask_is_final
    for turn in canvas.turns():
        masked = canvas.masks(canvas.prompt_length, canvas.end)
        window = canvas.masks(canvas.prompt_length, turn.end)[: options.window_length]
        entering = window if options.block_caching else masked
        newly = [p for step in commits[max(0, len(commits) - delay) :] for p in step]
        interval = options.refresh_steps
        whole = canvas.step == 0 or bool(interval and canvas.step % interval == 0)
        queries = [p - canvas.shift for p in entering]
        outs = [
            forward(ids[None], newly, queries, set(masked), whole)
            for forward, ids in zip(forwards, canvas.inputs(), strict=True)
        ]
        steps = [step for _, _, step in outs]
        canvas.computed(
            steps[0].layer_rows,
            whole,
            row_gap=min(step.gap for step in steps),
            boundary=steps[0].boundary,
            other_rows=steps[-1].layer_rows,
        )
        canvas.record.similarities.append(tuple(steps[0].similarities))
        canvas.record.tracked.append(steps[0].tracked)
        answering = [p - canvas.shift for p in window]
        states = [h[0, [rows.index(row) for row in answering]] for rows, h, _ in outs]
        canvas.decide(turn, answering, model.logits(torch.stack(states)))
        left = canvas.masks(canvas.prompt_length, canvas.length)
        commits.append([p for p in masked if p not in left])
        ends = [p for p in commits[-1] if canvas.tokens[p] == canvas.ids.end[0]]
        ends = [p for p in ends if p >= canvas.text_end]
        if options.eos_cut and ends and not cut:
            cut, canvas.end = True, min(ends) + 1
    return canvas.finish()
