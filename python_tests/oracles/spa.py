"""SPA-Cache (arXiv 2602.02544) for one sequence, as its code computes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .model import PlainLlada
from .selection import most_moved
from .sequence import Canvas, Record, Settings, TokenIds


@dataclass(frozen=True)
class SpaOptions:
    """``identifier``: what drifts. ``proxy`` (the method) or ``value``, for comparisons."""

    refresh_steps: int = 50
    refresh_gen_steps: int = 7
    proxy_rank: float = 128
    max_update_ratio: float = 0.25
    min_update_ratio: float = 1 / 16
    budget: str = "gaussian"
    peak: float = 0.75
    first_ratio: float = 0.03
    peak_ratio: float = 0.25
    last_ratio: float = 0.13
    layer_ratios: tuple[float, ...] | None = None
    kv_rows: str = "generated"
    reuse: str = "delta"
    reference_rows: str = "all"
    warmup_steps: int = 0
    early_stop_steps: int | None = None
    slice_shift: bool = False
    identifier: str = "proxy"

    def ratio(self, layer: int, n_layers: int) -> float:
        """The share of the generated rows that layer ``layer`` computes: a split Gaussian."""
        if self.layer_ratios is not None:
            return self.layer_ratios[layer]
        if self.budget == "uniform":
            return self.max_update_ratio
        scale = self.max_update_ratio / self.peak_ratio
        first, peak, last = (
            scale * ratio for ratio in (self.first_ratio, self.peak_ratio, self.last_ratio)
        )
        t = layer / n_layers
        if t < self.peak:
            left = peak * (first / peak) ** (((t - self.peak) / self.peak) ** 2)
            return max(left, self.min_update_ratio)
        return peak * (last / peak) ** (((t - self.peak) / (1 - self.peak)) ** 2)

    def budgets(self, n_layers: int, gen_length: int) -> list[int]:
        return [int(gen_length * self.ratio(layer, n_layers)) for layer in range(n_layers)]

    def mode(self, step: int) -> str:
        if step % self.refresh_steps == 0 or step <= self.warmup_steps:
            return "full"
        return "gen" if step % self.refresh_gen_steps == 0 else "sparse"


def singular_proxy(weight: torch.Tensor, rank: float) -> torch.Tensor:
    """``[r, D]`` from ``v_proj.weight [Dkv, D]``: its first right singular vectors, scaled."""
    _, values, right = torch.linalg.svd(weight, full_matrices=False)
    count = int(rank) if rank > 1 else int(rank * weight.shape[0])
    count = max(1, min(count, len(values)))
    return values[:count, None] * right[:count]


class SpaPass:
    """One canvas with its caches: the sequence, or its twin with masked prompt under guidance."""

    def __init__(self, model: PlainLlada, options: SpaOptions, prompt_length: int, length: int):
        self.model = model
        self.options = options
        self.length = length
        # generated rows; for Dream also the one before them, which predicts the first
        self.first = prompt_length - (0 if options.slice_shift else model.config.shift)
        layers = model.config.n_layers
        self.budgets = options.budgets(layers, length - prompt_length)
        self.k, self.v = model.empty_cache(1, length)
        self.reference: list[torch.Tensor] = [torch.empty(0)] * layers
        self.delta: list[torch.Tensor] = [torch.empty(0)] * layers
        self.output: list[torch.Tensor] = [torch.empty(0)] * layers
        weights = [model.weights[f"blocks.{layer}.v_proj.weight"] for layer in range(layers)]
        if options.identifier == "value":
            self.proxies = weights
        else:
            self.proxies = [singular_proxy(weight, options.proxy_rank) for weight in weights]
        self.layer_rows: list[list[int]] = []
        self.gap = math.inf

    def forward(self, ids: torch.Tensor, mode: str) -> tuple[list[int], torch.Tensor]:
        """Tokens ``[1, N]`` -> the carried rows and their logits ``[R, V]``."""
        self.gap = math.inf
        everything = list(range(self.length))
        carried = everything if mode == "full" else everything[self.first :]
        self.layer_rows = [carried]
        # layer 0 is dense on the whole canvas at every step
        h = self.model.embed(ids)
        h = (h + self.dense(0, h, everything))[:, carried]
        for layer in range(1, self.model.config.n_layers):
            if mode == "sparse":
                h = self.sparse(layer, h, carried)
            else:
                h = self.refresh(layer, h, carried)
        return carried, self.model.logits(h)[0]

    def dense(self, layer: int, h: torch.Tensor, rows: list[int]) -> torch.Tensor:
        """Computes all carried rows; returns what the layer adds to them."""
        u = self.model.attention_input(layer, h)
        self.write(layer, u, rows)
        return self.added(layer, h, u, rows)

    def write(self, layer: int, u: torch.Tensor, rows: list[int]) -> None:
        positions = torch.tensor(rows)
        k = self.model.project(layer, u, "k")
        self.k[layer][:, rows] = self.model.rotate(k, positions)
        self.v[layer][:, rows] = self.model.project(layer, u, "v")

    def added(self, layer: int, h: torch.Tensor, u: torch.Tensor, rows: list[int]) -> torch.Tensor:
        q = self.model.rotate(self.model.project(layer, u, "q"), torch.tensor(rows))
        a = self.model.attend(layer, q, self.k[layer], self.v[layer])
        return a + self.model.feed_forward(layer, h + a)

    def refresh(self, layer: int, h: torch.Tensor, carried: list[int]) -> torch.Tensor:
        self.layer_rows.append(carried)
        delta = self.dense(layer, h, carried)
        generated = slice(self.first - carried[0], None)
        u = self.model.attention_input(layer, h)
        self.reference[layer] = (u @ self.proxies[layer].T)[0, generated]
        self.delta[layer] = delta[:, generated].clone()
        self.output[layer] = (h + delta)[:, generated].clone()
        return h + delta

    def sparse(self, layer: int, h: torch.Tensor, carried: list[int]) -> torch.Tensor:
        options = self.options
        u = self.model.attention_input(layer, h)
        signal = (u @ self.proxies[layer].T)[0]
        places, gap = most_moved(signal, self.reference[layer], self.budgets[layer])
        self.gap = min(self.gap, gap)
        rows = [carried[place] for place in places]
        self.layer_rows.append(rows)
        if options.kv_rows == "generated":
            self.write(layer, u, carried)
        elif rows:
            self.write(layer, u[:, places], rows)
        if options.reference_rows == "all":
            self.reference[layer] = signal
        else:
            self.reference[layer][places] = signal[places]
        if rows:
            delta = self.added(layer, h[:, places], u[:, places], rows)
            self.delta[layer][:, places] = delta
            self.output[layer][:, places] = h[:, places] + delta
        if options.reuse == "delta":
            return h + self.delta[layer]
        return self.output[layer].clone()


@torch.no_grad()
def decode_spa(
    model: PlainLlada,
    prompt: Sequence[int],
    settings: Settings,
    ids: TokenIds,
    options: SpaOptions = SpaOptions(),
) -> Record:
    canvas = Canvas(prompt, settings, ids, model.config.shift)
    passes = [
        SpaPass(model, options, canvas.prompt_length, canvas.length) for _ in range(canvas.passes)
    ]
    for turn in canvas.turns():
        mode = options.mode(canvas.step)
        inputs = canvas.inputs()
        rows: list[int] = []
        logits = []
        for i, one in enumerate(passes):
            rows, own = one.forward(inputs[i : i + 1], mode)
            logits.append(own)
        canvas.computed(
            passes[0].layer_rows, mode != "sparse", row_gap=min(one.gap for one in passes)
        )
        # The authors' Dream code shifts the predictions of the rows that it carries; between full
        # steps the first of them then predicts two positions.
        inside = options.slice_shift and mode != "full"
        first_row = canvas.prompt_length if inside else 0
        canvas.decide(turn, rows, torch.stack(logits), first_row=first_row)
        every = options.early_stop_steps
        if every is not None and canvas.step % every == 0:
            canvas.pad_behind_the_end()
    return canvas.finish()
