"""Elastic-Cache (arXiv 2510.14973) for one sequence, as its published code does it.

Keeps the layer inputs, queries, keys and values of every position of every layer, a copy of the
keys that a layer overwrites, and all attention probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from .layers import Layers
from .model import PlainLlada
from .sequence import Canvas, Settings, TokenIds
from .steps import LayerRecord, StepRows, guided_copies, guided_logits, note_step, record_layers


@dataclass(frozen=True)
class ElasticOptions:
    gamma: float = 0.9
    window_length: int | None = 16
    track_num: int = 1
    block_caching: bool = True
    similarity: str = "heads"
    eos_cut: bool = True
    refresh_steps: int | None = None


def attention_similarity(old: torch.Tensor, new: torch.Tensor, kind: str) -> float:
    """One number for two attentions ``[H, T, N]`` of the tracked rows."""
    if old.shape[1] == 0:
        return 1.0
    if kind == "heads":  # the code: cosine over heads for each row and key
        norms = old.norm(dim=0).clamp_min(1e-8) * new.norm(dim=0).clamp_min(1e-8)
        return ((old * new).sum(0) / norms).mean().item()
    norms = old.norm(dim=-1) * new.norm(dim=-1)  # the paper: cosine over keys
    return ((old * new).sum(-1) / norms).mean().item()


def most_attended(
    attention: torch.Tensor, masked: set[int], number: int
) -> tuple[list[int], float]:
    """The ``number`` unmasked keys to which all heads and rows of ``[H, R, N]`` attend most.

    Also returns how much more attention, as a logarithm of the ratio, the last of them gets than
    the first of the others.
    """
    mass = attention.sum((0, 1)).tolist()
    keys = [j for j in range(len(mass)) if j not in masked]
    keys.sort(key=lambda j: (-mass[j], j))
    margin = math.inf
    if 0 < number < len(keys) and mass[keys[number]] > 0:
        margin = math.log(mass[keys[number - 1]] / mass[keys[number]])
    return keys[:number], margin


@dataclass
class ElasticState:
    """What is kept of one sequence from step to step."""

    layers: Layers
    length: int
    options: ElasticOptions
    tracked: list[int] = field(default_factory=list)

    def __post_init__(self) -> None:
        c = self.layers.config
        self.x = self.layers.zeros(self.length, c.d_model)
        self.q = self.layers.zeros(self.length, c.n_heads, c.head_dim)
        self.k = self.layers.zeros(self.length, c.n_kv_heads, c.head_dim)
        self.v = self.layers.zeros(self.length, c.n_kv_heads, c.head_dim)

    def forward(
        self,
        tokens: Sequence[int],
        newly: list[int],
        queries: list[int],
        masked: set[int],
        whole: bool,
    ) -> tuple[dict[int, torch.Tensor], StepRows]:
        """One forward. ``queries``: the rows whose attention says what is tracked next.

        Returns the final hidden state of every row present at the end, and what was computed.
        """
        everything = list(range(self.length))
        n_layers = len(self.layers)
        step = StepRows(refresh=whole)
        rows = everything if whole else sorted({*self.tracked, *newly, *queries})
        start = -1 if whole else n_layers
        tracked = self.tracked
        most: set[int] = set()
        h = self.layers.embed(tokens, rows)
        for layer in range(n_layers):
            if layer == start:
                self.x[layer][rows] = h
                rows, h = everything, self.x[layer].clone()
            self.x[layer][rows] = h
            old_keys, old_queries = self.k[layer].clone(), self.q[layer][tracked].clone()
            self.q[layer][rows], self.k[layer][rows], self.v[layer][rows] = self.layers.project(
                layer, h, rows
            )
            attention = self.layers.attention(self.q[layer][rows], self.k[layer])
            similarity = None
            if layer < start:
                old = self.layers.attention(old_queries, old_keys)
                new = attention[:, [rows.index(t) for t in tracked]]
                similarity = attention_similarity(old, new, self.options.similarity)
                step.note(similarity - self.options.gamma)
                if similarity < self.options.gamma:
                    start = layer + 1
                    step.boundary = start
            chosen, margin = most_attended(
                attention[:, [rows.index(p) for p in queries]], masked, self.options.track_num
            )
            most |= set(chosen)
            step.note(margin)
            step.add_layer(rows, similarity, chosen)
            h = h + self.layers.delta(layer, h, attention, self.v[layer])
        self.tracked = sorted(most)
        return dict(zip(rows, h, strict=True)), step


@torch.no_grad()
def decode_elastic(
    model: PlainLlada,
    prompt: Sequence[int],
    settings: Settings,
    ids: TokenIds,
    options: ElasticOptions,
    shift: int = 0,
) -> LayerRecord:
    """``shift`` 1: row p predicts the token at p + 1."""
    canvas = Canvas(prompt, settings, ids)
    layers = Layers(model)
    states = [ElasticState(layers, canvas.length, options) for _ in range(guided_copies(settings))]

    def forward(newly, queries, masked, whole):
        return [
            state.forward(tokens.tolist(), newly, queries, masked, whole)
            for state, tokens in zip(states, canvas.inputs(), strict=True)
        ]

    return elastic_loop(canvas, layers, options, forward, shift)


def elastic_loop(
    canvas: Canvas,
    layers: Layers,
    options: Any,
    forward: Callable[..., list[tuple[dict[int, torch.Tensor], StepRows]]],
    shift: int,
    delay: int = 1,
) -> LayerRecord:
    """The blocks and steps of Elastic-Cache; ``forward`` computes a step of every copy.

    ``delay``: for how many steps a committed position stays among the rows.
    """
    record_layers(canvas)
    settings, first = canvas.settings, canvas.prompt_length
    end, ended = canvas.length, False
    commits: list[list[int]] = []
    blocks = settings.blocks(first)
    for block_begin, whole_block_end in blocks:
        block_end = min(whole_block_end, end)
        schedule = settings.schedule(len(canvas.masks(block_begin, block_end)), len(blocks))
        i = 0
        while canvas.masks(block_begin, block_end) and not canvas.stopped:
            if settings.fixed_k and (i == len(schedule) or schedule[i] == 0):
                break
            masked = canvas.masks(first, end)
            window = canvas.masks(first, block_end)[: options.window_length]
            entering = window if options.block_caching else masked
            newly = [p for step in commits[max(0, len(commits) - delay) :] for p in step]
            interval = options.refresh_steps
            whole = canvas.step == 0 or bool(interval and canvas.step % interval == 0)
            outs = forward(newly, [p - shift for p in entering], set(masked), whole)
            note_step(canvas, [step for _, step in outs])
            hidden = [torch.stack([h[p - shift] for p in window]) for h, _ in outs]
            logits = guided_logits(canvas, [layers.logits(h) for h in hidden])
            candidates = [canvas.predict(p, row) for p, row in zip(window, logits, strict=True)]
            before = list(canvas.tokens)
            canvas.commit(candidates, schedule[i] if settings.fixed_k else None)
            commits.append([p for p in masked if canvas.tokens[p] != before[p]])
            ends = [p for p in commits[-1] if canvas.tokens[p] == canvas.ids.end[0]]
            if options.eos_cut and ends and not ended:
                ended, end = True, min(ends) + 1
                block_end = min(block_end, end)
            i += 1
        if canvas.stopped:
            break
    return canvas.finish()
