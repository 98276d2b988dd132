"""The decoding loop: slots, one step, and the life of a sequence."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dlmcache_cuda import ops
from dlmcache_cuda.cache import RowList
from dlmcache_cuda.decoding.arguments import DecodeSettings
from dlmcache_cuda.decoding.canvas import Canvas, StepControl
from dlmcache_cuda.decoding.events import SequenceUpdate, StepEvent
from dlmcache_cuda.decoding.output import DecodedSequence
from dlmcache_cuda.decoding.phases import PhaseTimer
from dlmcache_cuda.decoding.slots import Slot, SlotStatus
from dlmcache_cuda.model import Llada, Prediction
from dlmcache_cuda.policies import CachePolicy, SlotPlan

_IDLE = SlotPlan(0, 0, refresh=False)


class Decoder:
    """Decodes sequences in a fixed number of slots; they :meth:`add` in and leave when done.

    Args:
        model: the network.
        policy: decides which rows a step computes; belongs to this decoder.
        settings: lengths and sampler.
        num_slots: sequences in flight.
        capacity: positions of a slot: the longest prompt plus ``gen_length``.

    All state is in the object: decoders on different threads may share a model.
    """

    def __init__(
        self,
        model: Llada,
        policy: CachePolicy,
        settings: DecodeSettings,
        *,
        num_slots: int,
        capacity: int,
    ) -> None:
        self.model = model
        self.policy = policy
        self.settings = settings
        self.sampler = settings.sampler
        self.timer = PhaseTimer()
        self.forwards = 0
        self.canvas = Canvas(model, num_slots, capacity, guided=self.sampler.cfg_scale > 0)
        self.slots: list[Slot | None] = [None] * num_slots
        device = model.device
        self._end_ids = torch.tensor(model.end_token_ids, dtype=torch.int64, device=device)
        self._suppress_ids = _id_tensor(self.sampler.suppress_ids, device)
        self._confidence_suppress_ids = _id_tensor(self.sampler.confidence_suppress_ids, device)

    @property
    def idle(self) -> bool:
        return all(slot is None for slot in self.slots)

    @property
    def has_free_slot(self) -> bool:
        return any(slot is None for slot in self.slots)

    def add(self, sequence: int, prompt_ids: Tensor, seed: int) -> int:
        """Puts a sequence into a free slot and returns the slot's number."""
        place = self.slots.index(None)
        length = prompt_ids.numel() + self.settings.gen_length
        slot = Slot(
            sequence, prompt_ids, seed, length, self.settings.block_length, self.sampler.rule
        )
        self.canvas.enter(place, prompt_ids, length)
        self.slots[place] = slot
        return place

    @torch.no_grad()
    def step(self) -> dict[int, DecodedSequence]:
        """One forward and one commit for every sequence in flight; returns those that ended."""
        canvas, model = self.canvas, self.model
        with self.timer.phase("plan"):
            plans = [
                _IDLE if slot is None else self.policy.plan_slot(slot.view()) for slot in self.slots
            ]
            lengths = self._lengths()
            control = self._control(plans, lengths)
            rows = self._entry_rows(plans)
            candidates, places = self._candidates(plans, control, rows)
        with self.timer.phase("network"):
            hidden = model.forward_rows(
                canvas.network_tokens, rows, canvas.cache, control.kv_lens, lengths
            )
        with self.timer.phase("head"):
            prediction = self._predict(hidden, rows, candidates, places, control)
        with self.timer.phase("commit"):
            committed, status = ops.commit_(
                canvas.tokens,
                canvas.commit_step,
                canvas.log_confidence,
                candidates.row_index,
                candidates.cu_rows,
                prediction.token,
                prediction.log_confidence,
                self.sampler.score(prediction, candidates, control.seeds, control.steps),
                control.num_commit,
                control.steps,
                control.spans,
                self._end_ids,
                canvas.mask_id,
                canvas.capacity,
                self.sampler.rule.code,
                self.sampler.rule.value,
            )
            canvas.mirror()
        with self.timer.phase("readback"):
            statuses = [SlotStatus(*row) for row in status.tolist()]
        self.forwards += 1
        return self._advance(plans, statuses, candidates, committed)

    def _control(self, plans: Sequence[SlotPlan], lengths: Sequence[int]) -> StepControl:
        columns = [
            (0,) * 8
            if slot is None
            else (
                slot.seed,
                slot.step,
                slot.num_commit,
                slot.candidates_begin(plan),
                slot.prompt_length,
                slot.length,
                slot.block_begin,
                slot.block_end,
            )
            for slot, plan in zip(self.slots, plans, strict=True)
        ]
        return StepControl(list(zip(*columns, strict=True)), lengths, self.model.device)

    def _lengths(self) -> list[int]:
        """Keys of every slot of the network, guidance twins included."""
        lengths = [0 if slot is None else slot.length for slot in self.slots]
        return lengths * 2 if self.canvas.guided else lengths

    def _entry_rows(self, plans: Sequence[SlotPlan]) -> RowList:
        begin, end = [plan.begin for plan in plans], [plan.end for plan in plans]
        if self.canvas.guided:
            begin, end = begin * 2, end * 2
        return RowList.from_ranges(begin, end, self.canvas.capacity, self.model.device)

    def _candidates(
        self, plans: Sequence[SlotPlan], control: StepControl, rows: RowList
    ) -> tuple[RowList, Tensor]:
        """The computed masked rows before the ends of the blocks, and where each stands among the
        computed rows."""
        canvas = self.canvas
        counts = tuple(
            0 if slot is None else slot.num_candidates(plan)
            for slot, plan in zip(self.slots, plans, strict=True)
        )
        row_index, cu_rows = ops.build_rows(
            control.candidates_begin,
            control.block_end,
            canvas.capacity,
            sum(counts),
            flags=canvas.tokens == canvas.mask_id,
        )
        candidates = RowList(row_index, cu_rows, counts, canvas.capacity)
        predicting = torch.where(row_index < 0, -1, row_index - self.model.shift)
        places = ops.find_rows(rows.row_index, rows.cu_rows, predicting, canvas.capacity)
        return candidates, places

    def _predict(
        self,
        hidden: Tensor,
        rows: RowList,
        candidates: RowList,
        places: Tensor,
        control: StepControl,
    ) -> Prediction:
        uncond_places = None
        if self.canvas.guided:
            # The twin of a row lies as many rows further as all slots together have.
            uncond_places = torch.where(places < 0, -1, places + rows.num_rows // 2)
        return self.sampler.predict(
            self.model,
            hidden,
            places,
            candidates,
            control.seeds,
            control.steps,
            control.num_commit,
            uncond_places=uncond_places,
            suppress_ids=self._suppress_ids,
            confidence_suppress_ids=self._confidence_suppress_ids,
        )

    def _advance(
        self,
        plans: Sequence[SlotPlan],
        statuses: Sequence[SlotStatus],
        candidates: RowList,
        committed: Tensor,
    ) -> dict[int, DecodedSequence]:
        active = [(place, slot) for place, slot in enumerate(self.slots) if slot is not None]
        for place, slot in active:
            if statuses[place].invalid:
                raise FloatingPointError(
                    f"sequence {slot.sequence}, step {slot.step}: the model's logits are NaN or "
                    f"infinite, or every token is suppressed, at {statuses[place].invalid} masked "
                    "positions; check the weights and the dtype"
                )
        reasons: dict[int, str | None] = {}
        for place, slot in active:
            plan = plans[place]
            slot.rows += (plan.end - plan.begin) * (2 if self.canvas.guided else 1)
            slot.refreshes += plan.refresh
            reasons[place] = slot.advance(statuses[place], self.settings.stop_at_eos)
        if self.settings.callback is not None:
            self._report(active, reasons, plans, candidates, committed)
        finished = {}
        for place, slot in active:
            reason = reasons[place]
            if reason is not None:
                finished[slot.sequence] = self._result(place, slot, statuses[place], reason)
                self.slots[place] = None
        return finished

    def _report(self, active, reasons, plans, candidates: RowList, committed: Tensor) -> None:
        rows = candidates.row_index[committed].cpu()
        updates = []
        for place, slot in active:
            generated = self.canvas.slot_range(place, slot.prompt_length, slot.length)
            mine = rows[(rows >= generated.start) & (rows < generated.stop)]
            updates.append(
                SequenceUpdate(
                    slot.sequence,
                    slot.step - 1,
                    self.canvas.tokens[generated].cpu().clone(),
                    mine - generated.start,
                    plans[place].end - plans[place].begin,
                    reasons[place],
                )
            )
        self.settings.callback(StepEvent(self.forwards - 1, tuple(updates)))

    def _result(self, place: int, slot: Slot, status: SlotStatus, reason: str) -> DecodedSequence:
        canvas = self.canvas
        generated = canvas.slot_range(place, slot.prompt_length, slot.length)
        ids = canvas.tokens[generated].cpu().clone()
        first_end = status.first_end - slot.prompt_length
        behind = torch.arange(ids.numel()) > first_end
        ids[behind & (ids == canvas.mask_id)] = canvas.pad_id
        visible = ids[:first_end]
        visible = visible[visible != canvas.mask_id]
        layers = self.model.config.n_layers
        passes = 2 if canvas.guided else 1
        return DecodedSequence(
            prompt_ids=slot.prompt_ids,
            ids=ids,
            visible_ids=visible,
            text=self.model.decode_text(visible),
            commit_step=canvas.commit_step[generated].cpu().clone(),
            confidence=canvas.log_confidence[generated].exp().cpu(),
            forwards=slot.step,
            rows_computed=slot.rows * layers,
            rows_vanilla=slot.step * slot.length * layers * passes,
            refreshes=slot.refreshes,
            stop_reason=reason,
        )


def _id_tensor(ids: Sequence[int], device: torch.device) -> Tensor | None:
    return torch.tensor(ids, dtype=torch.int64, device=device) if ids else None
