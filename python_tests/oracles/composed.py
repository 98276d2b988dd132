"""The composed cache for one sequence.

Elastic-Cache's drift test says when to refresh and from which layer on. That layer is recomputed
for all rows; in the layers above it SPA-Cache's proxy says which rows are, within the layer's
budget, and the others add what the layer added to them before. Committed positions stay among the
rows for a number of steps, as in dKV-Cache.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .elastic import attention_similarity, elastic_loop, most_attended
from .layers import Layers
from .model import PlainLlada
from .sequence import Canvas, Settings, TokenIds
from .steps import LayerRecord, StepRows, guided_copies


@dataclass(frozen=True)
class ComposedOptions:
    gamma: float | None = 0.9  # None: no drift test
    refresh_steps: int | None = None
    window_length: int | None = 16
    track_num: int = 1
    block_caching: bool = True
    similarity: str = "heads"
    eos_cut: bool = True
    delay_steps: int = 1
    max_update_ratio: float | None = 0.25  # None: all rows above the boundary
    min_update_ratio: float = 1 / 16
    budget: str = "gaussian"
    peak: float = 0.75
    first_ratio: float = 0.03
    peak_ratio: float = 0.25
    last_ratio: float = 0.13
    proxy_rank: float = 128


def layer_ratio(options: ComposedOptions, layer: int, n_layers: int) -> float:
    """Part of the rows that a layer may compute: a Gaussian of its own on each side of the peak."""
    if options.budget == "uniform":
        return options.max_update_ratio
    scale = options.max_update_ratio / options.peak_ratio
    first, peak, last = (
        ratio * scale for ratio in (options.first_ratio, options.peak_ratio, options.last_ratio)
    )
    t = layer / n_layers
    if t < options.peak:
        curve = peak * (first / peak) ** (((t - options.peak) / options.peak) ** 2)
        return max(curve, options.min_update_ratio)
    return peak * (last / peak) ** (((t - options.peak) / (1 - options.peak)) ** 2)


def proxy_weight(layers: Layers, layer: int, rank: float) -> torch.Tensor:
    """``[r, D]``: the first right singular vectors of the value weight, times their values."""
    weight = layers.weight(layer, "v_proj").double()
    number = int(rank) if rank > 1 else int(rank * weight.shape[0])
    number = max(1, min(number, *weight.shape))
    _, values, vectors = torch.linalg.svd(weight, full_matrices=False)
    return (values[:number, None] * vectors[:number]).to(layers.dtype)


def drift(old: torch.Tensor, new: torch.Tensor) -> float:
    """1 - cosine of two vectors."""
    sizes = old.norm().item(), new.norm().item()
    if 0.0 in sizes:
        return float(sizes != (0.0, 0.0))
    return 0.5 * (old / sizes[0] - new / sizes[1]).pow(2).sum().item()


def rows_to_compute(
    old: torch.Tensor, new: torch.Tensor, forced: list[int], budget: int
) -> tuple[list[int], float]:
    """The forced rows, and of the others those whose proxies ``[N, r]`` turned most.

    Also returns the distance, as a length between unit vectors, of the last chosen from the first
    row left out.
    """
    drifts = [drift(a, b) for a, b in zip(old, new, strict=True)]
    others = [row for row in range(len(drifts)) if row not in forced]
    others.sort(key=lambda row: (-drifts[row], row))
    number = max(0, budget - len(forced))
    margin = math.inf
    if 0 < number < len(others):
        last, first = drifts[others[number - 1]], drifts[others[number]]
        margin = math.sqrt(2 * last) - math.sqrt(2 * first)
    return sorted(forced + others[:number]), margin


class ComposedState:
    """What is kept of one sequence from step to step."""

    def __init__(self, layers: Layers, length: int, options: ComposedOptions) -> None:
        c = layers.config
        self.layers, self.length, self.options = layers, length, options
        self.tracked: list[int] = []
        self.x = layers.zeros(length, c.d_model)
        self.q = layers.zeros(length, c.n_heads, c.head_dim)
        self.k = layers.zeros(length, c.n_kv_heads, c.head_dim)
        self.v = layers.zeros(length, c.n_kv_heads, c.head_dim)
        self.delta = layers.zeros(length, c.d_model)
        self.sparse = options.max_update_ratio is not None
        if self.sparse:
            self.proxies = [
                proxy_weight(layers, layer, options.proxy_rank) for layer in range(len(layers))
            ]
            self.references = [
                torch.zeros(length, proxy.shape[0], dtype=layers.dtype) for proxy in self.proxies
            ]

    def budget(self, layer: int) -> int:
        return int(self.length * layer_ratio(self.options, layer, len(self.layers)))

    def forward(
        self,
        tokens: Sequence[int],
        newly: list[int],
        queries: list[int],
        masked: set[int],
        whole: bool,
        first: bool,
    ) -> tuple[dict[int, torch.Tensor], StepRows]:
        """As in Elastic-Cache. ``first``: nothing is kept yet."""
        n_layers, o = len(self.layers), self.options
        everything = list(range(self.length))
        entered = sorted({*self.tracked, *newly, *queries})
        tracked = self.tracked
        step = StepRows(refresh=whole)
        carried = everything if whole else entered
        most: set[int] = set()
        # from this layer on all rows are carried; above it only some of them are computed
        dense = 0 if whole else n_layers
        h = self.layers.embed(tokens, carried)
        for layer in range(n_layers):
            if layer == dense and not whole:
                inputs = self.x[layer].clone()
                inputs[carried] = h
                carried, h = everything, inputs
            tests = layer < dense and o.gamma is not None
            old_attention = None
            if tests:
                old_attention = self.layers.attention(self.q[layer][tracked], self.k[layer])
            q, k, v = self.layers.project(layer, h, carried)
            for kept, new in zip((self.x, self.q, self.k, self.v), (h, q, k, v), strict=True):
                kept[layer][carried] = new
            computed = carried
            if self.sparse:
                proxy = self.layers.normed(layer, h) @ self.proxies[layer].T
                if layer > dense and not first:
                    computed, margin = rows_to_compute(
                        self.references[layer], proxy, entered, self.budget(layer)
                    )
                    step.note(margin)
                self.references[layer][carried] = proxy
            attention = self.layers.attention(self.q[layer][computed], self.k[layer])
            similarity = None
            if tests:
                new_attention = attention[:, [computed.index(t) for t in tracked]]
                similarity = attention_similarity(old_attention, new_attention, o.similarity)
                step.note(similarity - o.gamma)
                if similarity < o.gamma:
                    dense = step.boundary = layer + 1
            of_queries = attention[:, [computed.index(p) for p in queries]]
            chosen, margin = most_attended(of_queries, masked, o.track_num)
            most |= set(chosen)
            step.note(margin)
            step.add_layer(computed, similarity, chosen)
            inputs = self.x[layer][computed]
            self.delta[layer][computed] = self.layers.delta(layer, inputs, attention, self.v[layer])
            h = h + self.delta[layer][carried]
        self.tracked = sorted(most)
        return dict(zip(carried, h, strict=True)), step


@torch.no_grad()
def decode_composed(
    model: PlainLlada,
    prompt: Sequence[int],
    settings: Settings,
    ids: TokenIds,
    options: ComposedOptions,
    shift: int = 0,
) -> LayerRecord:
    """``shift`` 1: row p predicts the token at p + 1."""
    canvas = Canvas(prompt, settings, ids)
    layers = Layers(model)
    states = [ComposedState(layers, canvas.length, options) for _ in range(guided_copies(settings))]

    def forward(newly, queries, masked, whole):
        return [
            state.forward(tokens.tolist(), newly, queries, masked, whole, canvas.step == 0)
            for state, tokens in zip(states, canvas.inputs(), strict=True)
        ]

    return elastic_loop(canvas, layers, options, forward, shift, delay=options.delay_steps)
