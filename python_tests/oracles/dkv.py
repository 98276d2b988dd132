"""dKV-Cache (arXiv 2505.15781) for one sequence: Decode, Greedy, Prefill and PD.

As in the authors' code, keys are kept before rotation, only those of rows that are not computed,
and are concatenated with the fresh ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from .model import PlainLlada
from .sequence import Canvas, Record, Settings, TokenIds, Turn


@dataclass(frozen=True)
class DecodeOptions:
    cache_reloading_step: int = 8
    shift_type: str = "un"


@dataclass(frozen=True)
class GreedyOptions:
    cache_reloading_step: int = 2
    window_length: int = 4
    window_center: str = "next"


@dataclass(frozen=True)
class PrefillOptions:
    refresh_steps: int | None = None


@dataclass(frozen=True)
class PdOptions:
    cache_reloading_step: int = 4
    shift_type: str = "un"
    prompt_refresh_steps: int | None = None


@dataclass
class Store:
    """Per layer the unrotated K and V ``[B, C, Hkv, hd]`` of the C positions ``rows``."""

    rows: list[int]
    k: list[torch.Tensor]
    v: list[torch.Tensor]

    @classmethod
    def empty(cls, model: PlainLlada, batch: int) -> Store:
        return cls([], *model.empty_cache(batch, 0))

    def take(self, rows: Sequence[int]) -> Store:
        places = [self.rows.index(row) for row in rows]
        return Store(list(rows), [k[:, places] for k in self.k], [v[:, places] for v in self.v])


def forward_beside(
    model: PlainLlada, canvas: Canvas, active: Sequence[int], kept: Store
) -> tuple[torch.Tensor, Store]:
    """Computes the rows ``active``; all others are those of ``kept``.

    Returns logits ``[B, R, V]`` and K and V of all N positions in the order [active; kept].
    """
    everything = Store([*active, *kept.rows], [], [])
    assert sorted(everything.rows) == list(range(canvas.length))
    positions = torch.tensor(everything.rows)
    h = model.embed(canvas.inputs()[:, list(active)])
    for layer in range(model.config.n_layers):
        u = model.attention_input(layer, h)
        everything.k.append(torch.cat([model.project(layer, u, "k"), kept.k[layer]], dim=1))
        everything.v.append(torch.cat([model.project(layer, u, "v"), kept.v[layer]], dim=1))
        q = model.rotate(model.project(layer, u, "q"), positions[: len(active)])
        keys = model.rotate(everything.k[layer], positions)
        h = h + model.attend(layer, q, keys, everything.v[layer])
        h = h + model.feed_forward(layer, h)
    return model.logits(h), everything


def cacheable(canvas: Canvas, shift_type: str) -> list[int]:
    """Rows whose K and V may be kept, by the tokens as they stand now."""
    decoded = [token != canvas.ids.mask for token in canvas.tokens]
    if canvas.shift == 0:
        flags = decoded
    elif canvas.step == 0:
        # the authors' initial map: the prompt without the row that predicts the first position
        flags = [row < canvas.prompt_length - 1 for row in range(canvas.length)]
    else:
        behind = decoded[1:] + decoded[:1]  # the last row takes the flag of token 0
        flags = {
            "un": behind,
            "un_right": [a and b for a, b in zip(decoded, behind, strict=True)],
            "right": decoded,
        }[shift_type]
    return [row for row, flag in enumerate(flags) if flag]


def lacks_candidates(canvas: Canvas, turn: Turn, kept: Sequence[int]) -> bool:
    """Whether fewer positions can be predicted beside ``kept`` than are due: with ``right``."""
    candidates = turn.due
    if candidates is None:
        candidates = canvas.masks(canvas.prompt_length, turn.end)
    predicted = [p for p in candidates if p - canvas.shift not in kept]
    return len(predicted) < (turn.count or 1)


@torch.no_grad()
def decode_dkv_decode(
    model: PlainLlada,
    prompt: Sequence[int],
    settings: Settings,
    ids: TokenIds,
    options: DecodeOptions = DecodeOptions(),
) -> Record:
    """Section 4.1 of the paper; ``shift_type`` concerns Dream only."""
    canvas = Canvas(prompt, settings, ids, model.config.shift)
    empty = store = Store.empty(model, canvas.passes)
    before: list[int] = []  # the cacheable rows when the last step began
    for turn in canvas.turns():
        now = cacheable(canvas, options.shift_type)
        full = (
            turn.i == 0
            or turn.i % options.cache_reloading_step == 0
            or (turn.i == 1 and canvas.shift == 0)
        )
        if options.shift_type == "right" and not full:
            full = lacks_candidates(canvas, turn, before)
        kept = empty if full else store.take(before)
        rows = [row for row in range(canvas.length) if row not in kept.rows]
        logits, everything = forward_beside(model, canvas, rows, kept)
        # a step later, these are the rows that are not computed
        store, before = everything.take(now), now
        canvas.computed([rows] * model.config.n_layers, full)
        canvas.decide(turn, rows, logits)
    return canvas.finish()


@torch.no_grad()
def decode_dkv_prefill(
    model: PlainLlada,
    prompt: Sequence[int],
    settings: Settings,
    ids: TokenIds,
    options: PrefillOptions = PrefillOptions(),
) -> Record:
    """Keeps the prompt; Dream's last prompt row, which predicts the first position, is computed."""
    canvas = Canvas(prompt, settings, ids, model.config.shift)
    prompt_rows = range(canvas.prompt_length - canvas.shift)
    empty = store = Store.empty(model, canvas.passes)
    for turn in canvas.turns():
        every = options.refresh_steps
        full = canvas.step == 0 or (every is not None and canvas.step % every == 0)
        kept = empty if full else store
        rows = [row for row in range(canvas.length) if row not in kept.rows]
        logits, everything = forward_beside(model, canvas, rows, kept)
        if full:
            store = everything.take(prompt_rows)
        canvas.computed([rows] * model.config.n_layers, full)
        canvas.decide(turn, rows, logits)
    return canvas.finish()


@torch.no_grad()
def decode_dkv_pd(
    model: PlainLlada,
    prompt: Sequence[int],
    settings: Settings,
    ids: TokenIds,
    options: PdOptions = PdOptions(),
) -> Record:
    """Prompt rows kept as in Prefill, decoded rows as in Decode but by the sequence's steps."""
    canvas = Canvas(prompt, settings, ids, model.config.shift)
    prompt_rows = list(range(canvas.prompt_length - canvas.shift))
    empty = store = Store.empty(model, canvas.passes)
    before: list[int] = []
    for turn in canvas.turns():
        now = cacheable(canvas, options.shift_type)
        every = options.prompt_refresh_steps
        full = canvas.step == 0 or (every is not None and canvas.step % every == 0)
        reload = canvas.step % options.cache_reloading_step == 0
        if options.shift_type == "right" and not full and not reload:
            reload = lacks_candidates(canvas, turn, [*prompt_rows, *before])
        if full:
            kept = empty
        elif reload:
            kept = store.take(prompt_rows)
        else:
            kept = store.take(sorted({*prompt_rows, *before}))
        rows = [row for row in range(canvas.length) if row not in kept.rows]
        logits, everything = forward_beside(model, canvas, rows, kept)
        store, before = everything.take(sorted({*prompt_rows, *now})), now
        canvas.computed([rows] * model.config.n_layers, full or reload)
        canvas.decide(turn, rows, logits)
    return canvas.finish()


def window(center: int, length: int, masked: Sequence[int], chosen: Sequence[int]) -> list[int]:
    """Up to ``length`` masked positions around ``center``: nearest first, left before right."""
    free = [p for p in masked if p not in chosen]
    left = sorted((p for p in free if p < center), reverse=True)
    right = sorted(p for p in free if p > center)
    found: list[int] = []
    while len(found) < length and (left or right):
        for side in (left, right):
            if side and len(found) < length:
                found.append(side.pop(0))
    return found


@torch.no_grad()
def decode_dkv_greedy(
    model: PlainLlada,
    prompt: Sequence[int],
    settings: Settings,
    ids: TokenIds,
    options: GreedyOptions = GreedyOptions(),
) -> Record:
    """For ``random_order`` and LLaDA: computes what is due, what just was, and windows."""
    assert model.config.shift == 0
    assert settings.remasking == "random_order"
    canvas = Canvas(prompt, settings, ids)
    store = Store.empty(model, canvas.passes)
    masked_before: list[int] = []  # masks of the generation region when the last step began
    for turn in canvas.turns():
        masked = canvas.masks(canvas.prompt_length, canvas.length)
        full = turn.i % options.cache_reloading_step == 0
        if full:
            rows = list(range(canvas.length))
        else:
            rows = [*turn.due_before, *turn.due]
            for center in turn.due if options.window_center == "next" else turn.due_before:
                rows += window(center, options.window_length, masked_before, rows)
        kept = store.take([] if full else [p for p in range(canvas.length) if p not in rows])
        logits, store = forward_beside(model, canvas, rows, kept)
        masked_before = masked
        canvas.computed([rows] * model.config.n_layers, full)
        canvas.decide(turn, rows, logits)
    return canvas.finish()
