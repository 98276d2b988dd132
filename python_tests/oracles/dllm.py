"""dLLM-Cache (arXiv 2506.06295) for one sequence, as its code computes.

The residual stream is carried for the whole canvas at every step; attention and FFN outputs are
kept apart.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .model import PlainLlada
from .selection import most_moved
from .sequence import Canvas, Record, Settings, TokenIds


@dataclass(frozen=True)
class DllmOptions:
    prompt_interval_steps: int = 50
    gen_interval_steps: int = 4
    transfer_ratio: float = 0.25


class DllmPass:
    """One canvas with its caches: the sequence, or its twin with masked prompt under guidance."""

    def __init__(self, model: PlainLlada, options: DllmOptions, prompt_length: int, length: int):
        self.model = model
        self.options = options
        self.first = prompt_length - model.config.shift  # generated rows, one more for Dream
        self.length = length
        self.count = int(options.transfer_ratio * (length - prompt_length))
        # K unrotated
        self.k, self.v = model.empty_cache(1, length)
        shape = (1, length, model.config.d_model)
        layers = range(model.config.n_layers)
        self.attention = [torch.zeros(shape, dtype=self.k[0].dtype) for _ in layers]
        self.ffn = [torch.zeros(shape, dtype=self.k[0].dtype) for _ in layers]
        self.layer_rows: list[list[int]] = []
        self.gap = math.inf

    def forward(self, ids: torch.Tensor, prompt: bool, response: bool) -> torch.Tensor:
        """Tokens ``[1, N]`` -> logits ``[N, V]``; ``prompt``, ``response``: what is refreshed."""
        model = self.model
        self.gap = math.inf
        self.layer_rows = []
        everything = torch.arange(self.length)
        h = model.embed(ids)
        for layer in range(model.config.n_layers):
            u = model.attention_input(layer, h)
            rows = list(range(self.first)) if prompt else []
            generated = range(self.first, self.length)
            if response:
                rows += generated
            elif self.options.transfer_ratio > 0:
                values = model.project(layer, u[:, generated], "v")
                places, gap = most_moved(
                    values[0].flatten(1), self.v[layer][0, generated].flatten(1), self.count
                )
                self.gap = min(self.gap, gap)
                rows += [generated[place] for place in places]
                self.v[layer][:, generated] = values
            self.layer_rows.append(rows)
            if rows:
                self.k[layer][:, rows] = model.project(layer, u[:, rows], "k")
                self.v[layer][:, rows] = model.project(layer, u[:, rows], "v")
                q = model.rotate(model.project(layer, u[:, rows], "q"), torch.tensor(rows))
                keys = model.rotate(self.k[layer], everything)
                a = model.attend(layer, q, keys, self.v[layer])
                self.attention[layer][:, rows] = a
                self.ffn[layer][:, rows] = model.feed_forward(layer, h[:, rows] + a)
            h = h + self.attention[layer] + self.ffn[layer]
        return model.logits(h)[0]


@torch.no_grad()
def decode_dllm(
    model: PlainLlada,
    prompt: Sequence[int],
    settings: Settings,
    ids: TokenIds,
    options: DllmOptions = DllmOptions(),
) -> Record:
    canvas = Canvas(prompt, settings, ids, model.config.shift)
    passes = [
        DllmPass(model, options, canvas.prompt_length, canvas.length) for _ in range(canvas.passes)
    ]
    for turn in canvas.turns():
        refresh_prompt = canvas.step % options.prompt_interval_steps == 0
        refresh_response = canvas.step % options.gen_interval_steps == 0
        inputs = canvas.inputs()
        logits = [
            one.forward(inputs[i : i + 1], refresh_prompt, refresh_response)
            for i, one in enumerate(passes)
        ]
        canvas.computed(
            passes[0].layer_rows,
            refresh_prompt or refresh_response,
            row_gap=min(one.gap for one in passes),
            entered=canvas.length - (0 if refresh_prompt else passes[0].first),
        )
        canvas.decide(turn, range(canvas.length), torch.stack(logits))
    return canvas.finish()
