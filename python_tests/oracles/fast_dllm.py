"""Fast-dLLM's prefix and dual caches (arXiv 2505.22618) for one sequence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .model import PlainLlada
from .sequence import Canvas, Record, Settings, TokenIds


@dataclass(frozen=True)
class BlockCacheOptions:
    refresh_steps: int | None = None
    first_token: bool = True


@torch.no_grad()
def decode_fast_dllm(
    model: PlainLlada,
    prompt: Sequence[int],
    settings: Settings,
    ids: TokenIds,
    cache: str,
    options: BlockCacheOptions = BlockCacheOptions(),
) -> Record:
    """``cache`` is ``"prefix"`` or ``"dual"``.

    A block [s, e) starts with a forward of the whole canvas, from whose logits tokens are committed
    as well; the forwards that follow compute rows [s, N) (prefix) or [s, e) (dual) against the K
    and V kept from it. Whether the block is complete is tested before each of them.
    ``refresh_steps`` repeats the whole forward inside a block.

    On Dream the whole forward commits position s alone, as in the authors' code, unless the
    schedule asks for more or ``first_token`` is off; row s - 1 is computed while s is a mask.
    """
    canvas = Canvas(prompt, settings, ids, model.config.shift)
    k: list[torch.Tensor] = []
    v: list[torch.Tensor] = []
    for turn in canvas.turns():
        refresh = turn.i == 0
        if options.refresh_steps is not None:
            refresh = turn.i % options.refresh_steps == 0
        if refresh:
            # A full forward sees the masks that earlier blocks left behind, as in the reference
            # (`mask_index[:, end:] = 0`); a cached one sees its block only.
            rows = range(canvas.length)
            logits, k, v = model.forward(canvas.inputs())
        else:
            first = turn.begin
            if canvas.masks(first, first + 1):
                first -= canvas.shift
            rows = range(first, canvas.length if cache == "prefix" else turn.end)
            inputs = canvas.inputs(rows.start, rows.stop)
            logits = model.forward_rows(inputs, torch.tensor(rows), k, v)
        canvas.computed([rows] * model.config.n_layers, refresh)
        alone = refresh and options.first_token and options.refresh_steps is None
        alone = alone and canvas.shift > 0 and turn.count in (None, 1)
        leftmost = canvas.masks(turn.begin, turn.end)[:1]
        canvas.decide(turn, rows, logits, leftmost if alone else None)
    return canvas.finish()
