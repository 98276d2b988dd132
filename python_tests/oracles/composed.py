"""The composed cache for one sequence.

Elastic-Cache's drift test says when to refresh and from which layer on. That layer is recomputed
for all rows; in the layers above it SPA-Cache's proxy says which rows are, within the layer's
budget, and the others add what the layer added to them before. Committed positions stay among the
rows for a number of steps, as in dKV-Cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .elastic import Step, attention_similarity, decode_windows, most_attended, project
from .model import PlainLlada
from .selection import most_moved
from .sequence import Canvas, Record, Settings, TokenIds
from .spa import SpaOptions, singular_proxy


@dataclass(frozen=True)
class ComposedOptions:
    gamma: float | None = 0.9  # None: no drift test
    refresh_steps: int | None = None
    window_length: int | None = 16
    track_num: int = 1
    block_caching: bool = True
    similarity: str = "heads"
    eos_cut: bool = True
    mask_is_final: bool = True
    delay_steps: int = 1
    max_update_ratio: float | None = 0.25  # None: all rows above the boundary
    min_update_ratio: float = 1 / 16
    budget: str = "gaussian"
    peak: float = 0.75
    first_ratio: float = 0.03
    peak_ratio: float = 0.25
    last_ratio: float = 0.13
    layer_ratios: tuple[float, ...] | None = None  # instead of a curve
    proxy_rank: float = 128

    @property
    def selects(self) -> bool:
        return self.max_update_ratio is not None or self.layer_ratios is not None

    def budgets(self, n_layers: int, length: int) -> list[int]:
        if self.layer_ratios is not None:
            return [int(length * ratio) for ratio in self.layer_ratios]
        curve = SpaOptions(
            max_update_ratio=self.max_update_ratio,
            min_update_ratio=self.min_update_ratio,
            budget=self.budget,
            peak=self.peak,
            first_ratio=self.first_ratio,
            peak_ratio=self.peak_ratio,
            last_ratio=self.last_ratio,
        )
        return curve.budgets(n_layers, length)


def rows_to_compute(
    old: torch.Tensor, new: torch.Tensor, forced: list[int], budget: int
) -> tuple[list[int], float]:
    """The forced rows, and of the others those whose proxies ``[N, r]`` turned most; the gap."""
    others = [row for row in range(len(new)) if row not in forced]
    moved, gap = most_moved(new[others], old[others], max(0, budget - len(forced)))
    return sorted(forced + [others[place] for place in moved]), gap


class ComposedPass:
    """One canvas with its caches: the sequence, or its twin with masked prompt under guidance."""

    def __init__(self, model: PlainLlada, options: ComposedOptions, length: int) -> None:
        c = model.config
        self.model, self.options, self.length = model, options, length
        self.tracked: list[int] = []
        self.empty = True
        self.x = [torch.zeros(1, length, c.d_model).double() for _ in range(c.n_layers)]
        self.delta = [torch.zeros_like(x) for x in self.x]
        self.q = [torch.zeros(1, length, c.n_heads, c.head_dim).double() for _ in self.x]
        self.k, self.v = model.empty_cache(1, length)
        if options.selects:
            self.budgets = options.budgets(c.n_layers, length)
            values = [model.weights[f"blocks.{n}.v_proj.weight"] for n in range(c.n_layers)]
            self.proxies = [singular_proxy(weight, options.proxy_rank) for weight in values]
            self.reference = [torch.zeros(length, len(proxy)).double() for proxy in self.proxies]

    def forward(
        self,
        ids: torch.Tensor,
        newly: list[int],
        queries: list[int],
        masked: set[int],
        whole: bool,
    ) -> tuple[list[int], torch.Tensor, Step]:
        """As Elastic-Cache's, from carried rows and those of them that a layer computes."""
        n_layers, options, model = self.model.config.n_layers, self.options, self.model
        everything = list(range(self.length))
        forced = sorted({*self.tracked, *newly, *queries})
        step = Step()
        carried = everything if whole else forced
        dense = 0 if whole else n_layers  # this layer computes all rows; those above, a budget
        most: set[int] = set()
        h = model.embed(ids[:, carried])
        for layer in range(n_layers):
            if layer == dense and not whole:
                inputs = self.x[layer].clone()
                inputs[:, carried] = h
                carried, h = everything, inputs
            tested = layer < dense and options.gamma is not None
            if tested:
                old = model.probabilities(self.q[layer][:, self.tracked], self.k[layer])[0]
            new = (h, *project(model, layer, h, carried))
            for kept, renewed in zip((self.x, self.q, self.k, self.v), new, strict=True):
                kept[layer][:, carried] = renewed
            rows = carried
            if options.selects:
                signal = (model.attention_input(layer, h) @ self.proxies[layer].T)[0]
                if layer > dense and not self.empty:
                    rows, gap = rows_to_compute(
                        self.reference[layer], signal, forced, self.budgets[layer]
                    )
                    step.note(gap)
                self.reference[layer][carried] = signal
            q = self.q[layer][:, rows]
            attention = model.probabilities(q, self.k[layer])[0]
            similarity = None
            if tested:
                after = attention[:, [rows.index(row) for row in self.tracked]]
                similarity = attention_similarity(old, after, options.similarity)
                step.note(similarity - options.gamma)
                if similarity < options.gamma:
                    dense = step.boundary = layer + 1
            found, gap = most_attended(
                attention[:, [rows.index(row) for row in queries]], masked, options.track_num
            )
            most |= set(found)
            step.note(gap)
            step.layer(rows, similarity, found)
            chosen = self.x[layer][:, rows]
            a = model.attend(layer, q, self.k[layer], self.v[layer])
            self.delta[layer][:, rows] = a + model.feed_forward(layer, chosen + a)
            h = h + self.delta[layer][:, carried]
        self.tracked, self.empty = sorted(most), False
        return carried, h, step


@torch.no_grad()
def decode_composed(
    model: PlainLlada,
    prompt: Sequence[int],
    settings: Settings,
    ids: TokenIds,
    options: ComposedOptions = ComposedOptions(),
) -> Record:
    canvas = Canvas(prompt, settings, ids, model.config.shift)
    passes = [ComposedPass(model, options, canvas.length) for _ in range(canvas.passes)]
    forwards = [one.forward for one in passes]
    return decode_windows(model, canvas, options, forwards, delay=options.delay_steps)
