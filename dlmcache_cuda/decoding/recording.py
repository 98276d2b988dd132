"""Makes traces: reads what the steps of a traced run left, and adds what is needed to read it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dlmcache_cuda.cache import RowList
from dlmcache_cuda.decoding.arguments import DecodeSettings
from dlmcache_cuda.decoding.canvas import Canvas
from dlmcache_cuda.decoding.slots import Slot
from dlmcache_cuda.decoding.trace import SelectionDrift, SequenceTrace, StepTrace
from dlmcache_cuda.model import Llada
from dlmcache_cuda.policies import CachePolicy, SlotPlan, StackSpec, StepPlan
from dlmcache_cuda.samplers import Sampler
from dlmcache_cuda.stack import LayerSelection

if TYPE_CHECKING:
    from dlmcache_cuda.decoding.step_outcome import StepOutcome


class Recorder:
    """Records the steps of one decoder.

    Args:
        canvas: its canvas.
        n_layers: layers of its model.
    """

    def __init__(self, canvas: Canvas, n_layers: int) -> None:
        self._canvas = canvas
        self._layers = n_layers
        self._before: dict[int, Tensor] = {}  # by slot: its canvas before the step

    def enter(self, place: int, length: int) -> None:
        """A sequence of this many positions has entered a slot."""
        self._before[place] = self._ids(place, length)

    def record(self, slots: Sequence[Slot | None], plan: StepPlan, outcome: StepOutcome) -> None:
        """Adds the step just made to the slots' traces; their own counts are those before it."""
        passes = [_Pass(output, self._layers) for output in outcome.outputs]
        for place, slot in enumerate(slots):
            if slot is not None:
                boundary = outcome.boundaries[place]
                bound = None if boundary < 0 else boundary
                first = passes[outcome.made_by[place]]
                resumed = outcome.resumed[place]
                above = first if resumed is None else passes[resumed]
                slot.trace.append(self._step(place, slot, plan.slots[place], bound, first, above))

    def _step(
        self,
        place: int,
        slot: Slot,
        plan: SlotPlan,
        boundary: int | None,
        first: _Pass,
        above: _Pass,
    ) -> StepTrace:
        layers, base = self._layers, place * self._canvas.capacity
        # From this layer on another pass may have computed the slot; its predictions hold.
        bound = layers if boundary is None else boundary
        of_layer = [above if layer >= bound else first for layer in range(layers)]
        # Above a boundary nothing is tested: there the first pass measured a wrong guess.
        similarity = [first.similarity(layer, place) for layer in range(bound)]
        now, before = self._ids(place, slot.length), self._before[place]
        written = (now != before).nonzero().flatten()
        self._before[place] = now
        candidates, predicted, confidence = above.predictions(place)
        return StepTrace(
            rows=tuple(one.rows(layer, place) - base for layer, one in enumerate(of_layer)),
            refresh=plan.refresh,
            boundary=boundary,
            similarity=(*similarity, *[None] * (layers - bound)),
            reason=_reason(slot, plan, boundary),
            entered=(plan.begin, plan.end),
            selection=tuple(one.selection(layer, place) for layer, one in enumerate(of_layer)),
            candidates=candidates - base,
            predicted=predicted,
            confidence=confidence,
            written=written,
            tokens=now[written],
            importance=above.importance(base, slot.length),
        )

    def _ids(self, place: int, length: int) -> Tensor:
        return self._canvas.ids(self._canvas.slot_range(place, 0, length))


def _reason(slot: Slot, plan: SlotPlan, boundary: int | None) -> str | None:
    if slot.step == 0:
        return "start"
    if plan.refresh:
        return "schedule"
    return None if boundary is None else "drift"


class _Pass:
    """What one pass through the layers left, on the CPU, apart by slot."""

    def __init__(self, output: Any, n_layers: int) -> None:
        result = output.result
        # A pass that goes on begins above the layers that stand.
        below = [None] * (n_layers - len(result.layer_rows))
        self._rows = below + [_on_cpu(rows) for rows in result.layer_rows]
        self._selected = below + [
            None if one is None else _Selected(one) for one in result.layer_selection
        ]
        measured = result.similarities
        self._similarities = None if measured is None else measured.tolist()
        self._importance = None if result.importance is None else result.importance.cpu()
        rows, prediction = output.predicted
        self._candidates, self._bounds = _on_cpu(rows)
        self._token = prediction.token.cpu()
        self._confidence = prediction.log_confidence.cpu().exp()

    def rows(self, layer: int, place: int) -> Tensor:
        index, bounds = self._rows[layer]
        return index[bounds[place] : bounds[place + 1]]

    def selection(self, layer: int, place: int) -> SelectionDrift | None:
        selected = self._selected[layer]
        return None if selected is None else selected.drift(place)

    def similarity(self, layer: int, place: int) -> float | None:
        if self._similarities is None:
            return None
        value = self._similarities[layer][place]
        return None if value != value else value

    def importance(self, base: int, length: int) -> Tensor | None:
        return None if self._importance is None else self._importance[base : base + length].clone()

    def predictions(self, place: int) -> tuple[Tensor, Tensor, Tensor]:
        part = slice(self._bounds[place], self._bounds[place + 1])
        return self._candidates[part], self._token[part], self._confidence[part]


class _Selected:
    """The drift of the rows that a layer carried, and which of them it computed."""

    def __init__(self, selection: LayerSelection) -> None:
        self._drift = selection.drift.cpu()
        _, self._bounds = _on_cpu(selection.carried)
        places = selection.places.cpu()
        self._computed = torch.zeros(self._drift.shape, dtype=torch.bool)
        self._computed[places[places >= 0]] = True

    def drift(self, place: int) -> SelectionDrift | None:
        part = slice(self._bounds[place], self._bounds[place + 1])
        drift, computed = self._drift[part], self._computed[part]
        if bool(computed.all()):
            return None
        compared = drift.isfinite()  # forced rows stand at infinity
        return SelectionDrift(
            highest=_extreme(drift[compared], torch.max),
            least_computed=_extreme(drift[compared & computed], torch.min),
            highest_reused=_extreme(drift[compared & ~computed], torch.max),
        )


def _extreme(values: Tensor, function: Any) -> float | None:
    return function(values).item() if values.numel() else None


def _on_cpu(rows: RowList) -> tuple[Tensor, list[int]]:
    return rows.row_index.cpu(), rows.cu_rows.tolist()


def sequence_trace(
    slot: Slot, model: Llada, policy: CachePolicy, settings: DecodeSettings, spec: StackSpec
) -> SequenceTrace:
    """The finished trace of a slot's sequence."""
    tracking, selection, layers = spec.tracking, spec.selection, model.config.n_layers
    gen_length = slot.length - slot.prompt_length
    budgets = None
    if selection is not None:
        budgets = tuple(
            selection.budget(layer, gen_length, slot.length)
            if layer >= selection.first_layer
            else slot.length
            for layer in range(layers)
        )
    occurring = [slot.prompt_ids.cpu(), slot.region.ids]
    occurring += [ids for step in slot.trace for ids in (step.predicted, step.tokens)]
    return SequenceTrace(
        steps=tuple(slot.trace),
        model=model.name,
        cache=policy.name,
        settings=asdict(policy.config),
        decoding=_decoding(settings, slot),
        n_layers=layers,
        mask_token_id=model.mask_token_id,
        gamma=None if tracking is None else tracking.gamma,
        signal=None if selection is None else selection.signal,
        budgets=budgets,
        pieces=_pieces(model, torch.cat(occurring).unique().tolist()),
    )


def _decoding(settings: DecodeSettings, slot: Slot) -> dict[str, Any]:
    sampler: Sampler = settings.sampler
    chosen = {"alg": sampler.alg} if sampler.alg is not None else {"remasking": sampler.remasking}
    return {
        "gen_length": slot.length - slot.prompt_length,
        "block_length": settings.block_length,
        "rule": type(slot.rule).__name__,
        **asdict(slot.rule),
        **chosen,
        "temperature": sampler.temperature,
        "cfg_scale": sampler.cfg_scale,
    }


def _pieces(model: Llada, ids: Iterable[int]) -> dict[int, str]:
    """Tokens as text; one that is a part of a character reads as U+FFFD."""
    try:
        tokenizer = model.tokenizer
    except FileNotFoundError:
        return {}

    def text(*tokens: int) -> str:
        return tokenizer.decode(list(tokens), skip_special_tokens=False)

    def piece(token: int) -> str:
        # Many tokenizers drop or add a space at the start of a text: the second of two is whole.
        alone = text(token)
        both = text(token, token)
        return both[len(alone) :] if both.startswith(alone) else alone

    return {token: piece(token) for token in ids if token >= 0}
