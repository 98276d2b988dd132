"""Fast-dLLM's prefix and dual caches (arXiv 2505.22618) for one sequence."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .model import PlainLlada
from .sequence import Canvas, Record, Settings, TokenIds


@torch.no_grad()
def decode_fast_dllm(
    model: PlainLlada,
    prompt: Sequence[int],
    settings: Settings,
    ids: TokenIds,
    cache: str,
    refresh_always: bool = False,
) -> Record:
    """``cache`` is ``"prefix"`` or ``"dual"``.

    A block [s, e) starts with a forward of the whole canvas, from whose logits tokens are committed
    as well; the forwards that follow compute rows [s, N) (prefix) or [s, e) (dual) against the K
    and V kept from it. Whether the block is complete is tested before each of them.
    ``refresh_always`` turns every forward into a whole one.
    """
    canvas = Canvas(prompt, settings, ids)
    blocks = settings.blocks(len(prompt))
    for begin, end in blocks:
        schedule = settings.schedule(len(canvas.masks(begin, end)), len(blocks))
        k: list[torch.Tensor] = []
        v: list[torch.Tensor] = []
        i = 0
        while canvas.masks(begin, end) and not canvas.stopped:
            if settings.fixed_k and (i == len(schedule) or schedule[i] == 0):
                break
            if i == 0 or refresh_always:
                first, last = 0, canvas.length
                # A full forward sees the masks that earlier blocks left behind, as in the reference
                # (`mask_index[:, end:] = 0`); a cached one sees its block only.
                masks = canvas.masks(canvas.prompt_length, end)
                inputs = canvas.inputs()
                logits, k, v = model.forward(inputs)
                canvas.record.refresh_steps.append(canvas.step)
            else:
                first, last = begin, (canvas.length if cache == "prefix" else end)
                masks = canvas.masks(begin, end)
                inputs = canvas.inputs(first, last)
                logits = model.forward_rows(inputs, torch.arange(first, last), k, v)
            canvas.record.rows.append(inputs.numel())
            guided = canvas.guided(logits)
            candidates = [canvas.predict(p, guided[p - first]) for p in masks]
            canvas.commit(candidates, schedule[i] if settings.fixed_k else None)
            i += 1
        if canvas.stopped:
            break
    return canvas.finish()
