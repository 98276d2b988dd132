"""LLaDA's reference loop (its generate.py) for one sequence, also with threshold and factor."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .model import PlainLlada
from .sequence import Canvas, Record, Settings, TokenIds


@torch.no_grad()
def decode_vanilla(
    model: PlainLlada, prompt: Sequence[int], settings: Settings, ids: TokenIds
) -> Record:
    """Every step computes the whole canvas."""
    canvas = Canvas(prompt, settings, ids, model.config.shift)
    for turn in canvas.turns():
        rows = range(canvas.length)
        canvas.computed([rows] * model.config.n_layers, refresh=True)
        canvas.decide(turn, rows, model.forward(canvas.inputs())[0])
    return canvas.finish()
