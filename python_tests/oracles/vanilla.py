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
    """Every step computes the whole canvas.

    Candidates are the masks before the end of the block. That includes masks which earlier blocks
    left behind because the mask id itself was predicted there: the reference excludes only what
    lies behind the block.
    """
    canvas = Canvas(prompt, settings, ids)
    blocks = settings.blocks(len(prompt))
    for begin, end in blocks:
        schedule = settings.schedule(len(canvas.masks(begin, end)), len(blocks))
        i = 0
        while canvas.masks(begin, end) and not canvas.stopped:
            if settings.fixed_k and (i == len(schedule) or schedule[i] == 0):
                break
            inputs = canvas.inputs()
            logits = canvas.guided(model.forward(inputs)[0])
            canvas.record.rows.append(inputs.numel())
            candidates = [
                canvas.predict(p, logits[p]) for p in canvas.masks(canvas.prompt_length, end)
            ]
            canvas.commit(candidates, schedule[i] if settings.fixed_k else None)
            i += 1
        if canvas.stopped:
            break
    return canvas.finish()
