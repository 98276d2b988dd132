"""The decoding loop: slots, one step, and the life of a sequence."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dlmcache_cuda import ops
from dlmcache_cuda.cache import RowList
from dlmcache_cuda.decoding.arguments import DecodeSettings
from dlmcache_cuda.decoding.canvas import Canvas, StepControl
from dlmcache_cuda.decoding.cuts import cut_at_eos, pad_behind_end
from dlmcache_cuda.decoding.events import SequenceUpdate, StepEvent
from dlmcache_cuda.decoding.output import DecodedSequence
from dlmcache_cuda.decoding.phases import PhaseTimer
from dlmcache_cuda.decoding.slots import Cut, Slot, SlotStatus
from dlmcache_cuda.decoding.step_rows import StepRows
from dlmcache_cuda.decoding.trace import StepTrace
from dlmcache_cuda.model import Llada, Prediction
from dlmcache_cuda.model.attention import KeyLengths
from dlmcache_cuda.policies import CachePolicy, Frame, StepPlan, StepResult, StepView
from dlmcache_cuda.profiling import annotate, annotated
from dlmcache_cuda.samplers.sampler import RANDOM_ORDER_STREAM
from dlmcache_cuda.stack import Stack, StackResult, StackStep


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
        self.canvas = Canvas(
            model,
            num_slots,
            capacity,
            guided=self.sampler.cfg_scale > 0,
            mask_is_final=policy.mask_is_final and not self.sampler.rule.leaves_masks,
        )
        self.slots: list[Slot | None] = [None] * num_slots
        device = model.device
        policy.attach(
            Frame(
                num_slots=num_slots,
                network_slots=self.canvas.network_slots,
                capacity=capacity,
                device=device,
                n_layers=model.config.n_layers,
                shift=model.shift,
                end_token_id=model.end_token_ids[0] if model.end_token_ids else None,
            )
        )
        self.stack = Stack(
            model,
            policy.stack_spec(model.config.n_layers),
            self.canvas.cache,
            record=settings.trace,
        )
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
            sequence,
            prompt_ids,
            seed,
            length,
            self.settings.block_length,
            self.sampler.rule,
            self.model.shift,
        )
        self.canvas.enter(place, prompt_ids, length)
        self.policy.enter(place)
        self.slots[place] = slot
        return place

    @annotated("step")
    @torch.no_grad()
    def step(self) -> dict[int, DecodedSequence]:
        """One forward and one commit for every sequence in flight; returns those that ended."""
        canvas = self.canvas
        with self.timer.phase("plan"):
            self._draw_orders()
            views = [None if slot is None else slot.view() for slot in self.slots]
            lengths = [0 if view is None else view.length for view in views]
            masked = canvas.masked()
            step = StepView(views, masked, torch.tensor(lengths).to(masked.device))
            plan = self.policy.plan(step)
            control = self._control(plan, lengths)
            rows = StepRows(self, step, plan, control)
        refreshes = any(slot.refresh for slot in plan.slots)
        with self.timer.phase("network"), annotate("refresh" if refreshes else "cached"):
            result = self._run_stack(step, plan, rows, control, lengths)
        with self.timer.phase("head"):
            places = rows.places(result.rows)
            prediction = self._predict(result, rows.predicted, places, control)
        with self.timer.phase("commit"):
            candidates, committable = rows.committable(prediction)
            committed, status = ops.commit_(
                canvas.tokens,
                canvas.commit_step,
                canvas.log_confidence,
                candidates.row_index,
                candidates.cu_rows,
                self._final(committable.token),
                committable.log_confidence,
                self._score(step, candidates, committable, control),
                control.num_commit,
                control.steps,
                control.spans,
                self._end_ids,
                canvas.mask_id,
                canvas.capacity,
                self.sampler.rule.code,
                self.sampler.rule.value,
            )
            cuts = self._cut(views, masked, status)
            canvas.mirror()
            self._tell_policy(step, plan, result, rows.predicted, prediction)
        with self.timer.phase("readback"):
            statuses = [SlotStatus(*row) for row in status.tolist()]
        self.forwards += 1
        return self._advance(plan, result, statuses, cuts, candidates, committed)

    def _final(self, token: Tensor) -> Tensor:
        """Tokens to commit, with a stand-in for masks where these are final."""
        final = self.canvas.final_mask_id
        return token if final is None else token.masked_fill(token == self.canvas.mask_id, final)

    def _draw_orders(self) -> None:
        """Random order: draws the order of the blocks that begin."""
        if self.sampler.remasking != "random_order":
            return
        begun = [
            (place, slot)
            for place, slot in enumerate(self.slots)
            if slot is not None and slot.step_in_block == 0
        ]
        if not begun:
            return
        device, capacity = self.model.device, self.canvas.capacity
        seeds = [0 if slot is None else slot.seed for slot in self.slots]
        ticks = [0 if slot is None else slot.block for slot in self.slots]
        draws = torch.tensor([seeds, ticks], dtype=torch.int64).to(device)
        begin = [0] * len(self.slots)
        end = [0] * len(self.slots)
        for place, slot in begun:
            begin[place], end[place] = slot.block_begin, slot.block_end
        rows = RowList.from_ranges(begin, end, capacity, device)
        numbers = ops.uniform_rows(
            rows.row_index, capacity, draws[0], draws[1], RANDOM_ORDER_STREAM
        ).split(rows.counts)
        for place, slot in begun:
            order = numbers[place].argsort(descending=True, stable=True)
            slot.order = (order + slot.block_begin).tolist()

    def _control(self, plan: StepPlan, lengths: Sequence[int]) -> StepControl:
        columns = [
            (0,) * 8
            if slot is None
            else (
                slot.seed,
                slot.step,
                slot.num_commit,
                slot.candidates_begin(slot_plan),
                slot.prompt_length,
                slot.length,
                slot.block_begin,
                slot.block_end,
            )
            for slot, slot_plan in zip(self.slots, plan.slots, strict=True)
        ]
        keys = self.canvas.twinned(lengths)
        return StepControl(list(zip(*columns, strict=True)), keys, self.model.device)

    def _run_stack(
        self,
        step: StepView,
        plan: StepPlan,
        rows: StepRows,
        control: StepControl,
        lengths: Sequence[int],
    ) -> StackResult:
        canvas = self.canvas
        spec = self.stack.spec
        gen_lengths = [0 if view is None else view.gen_length for view in step.slots]
        return self.stack.run(
            StackStep(
                tokens=canvas.network_tokens,
                rows=rows.entering,
                key_lengths=KeyLengths(control.kv_lens, tuple(canvas.twinned(lengths))),
                plans=canvas.twinned(plan.slots),
                gen_lengths=canvas.twinned(gen_lengths),
                forced=plan.forced,
                forced_counts=rows.forced_counts,
                window=plan.window,
                masked=self._masked_to_end(step) if spec.tracking else None,
            )
        )

    def _masked_to_end(self, step: StepView) -> Tensor:
        """Masks that will be decoded, of all slots of the network. Those behind an early end are
        keys like any other."""
        ends = [0 if view is None else view.end for view in step.slots]
        masked = step.masked
        if any(view is not None and view.end < view.length for view in step.slots):
            bounds = torch.tensor(ends).to(masked.device)
            positions = torch.arange(self.canvas.capacity, device=masked.device)
            masked = (masked.view(len(ends), -1) & (positions < bounds[:, None])).flatten()
        return self.policy.frame.twinned(masked)

    def _predict(
        self, result: StackResult, predicted: RowList, places: Tensor, control: StepControl
    ) -> Prediction:
        guided = self.canvas.guided
        return self.sampler.predict(
            self.model,
            result.hidden,
            places,
            predicted,
            control.seeds,
            control.steps,
            control.num_commit,
            uncond_places=self._twin_places(result.rows, predicted) if guided else None,
            suppress_ids=self._suppress_ids,
            confidence_suppress_ids=self._confidence_suppress_ids,
        )

    def _twin_places(self, rows: RowList, predicted: RowList) -> Tensor:
        offset = self.canvas.tokens.numel() - self.model.shift
        twins = torch.where(predicted.row_index < 0, -1, predicted.row_index + offset)
        return ops.find_rows(rows.row_index, rows.cu_rows, twins, rows.capacity)

    def _score(
        self, step: StepView, candidates: RowList, prediction: Prediction, control: StepControl
    ) -> Tensor | None:
        """What ranks the candidates; None: their confidence."""
        if self.sampler.ranks_by_confidence:
            score = self.policy.score(step, candidates.row_index, prediction.log_confidence)
            if score is not None:
                return score
        return self.sampler.score(prediction, candidates, control.seeds, control.steps)

    def _cut(self, views: Sequence, masked_before: Tensor, status: Tensor) -> list[Cut | None]:
        """Ends sequences early where the policy's method does."""
        nothing = [None] * len(self.slots)
        if self.policy.cuts_at_eos and self.policy.frame.end_token_id is not None:
            fresh = [slot is not None and not slot.was_cut for slot in self.slots]
            if any(fresh):
                return cut_at_eos(
                    self.canvas, views, fresh, masked_before, self.policy.frame.end_token_id
                )
        elif self.policy.pad_steps is not None:
            due = [v is not None and (v.step + 1) % self.policy.pad_steps == 0 for v in views]
            if any(due):
                return pad_behind_end(self.canvas, views, due, status)
        return nothing

    def _tell_policy(
        self,
        step: StepView,
        plan: StepPlan,
        result: StackResult,
        predicted: RowList,
        prediction: Prediction,
    ) -> None:
        masked = self.canvas.masked()
        self.policy.after_commit(
            StepResult(
                slots=step.slots,
                plan=plan,
                tokens=self.canvas.tokens,
                masked_before=step.masked,
                masked=masked,
                newly=step.masked & ~masked,
                candidates=predicted.row_index,
                log_confidence=prediction.log_confidence,
                tracked=result.tracked,
                importance=result.importance,
            )
        )

    def _advance(
        self,
        plan: StepPlan,
        result: StackResult,
        statuses: Sequence[SlotStatus],
        cuts: Sequence[Cut | None],
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
        if self.settings.trace:
            self._trace(plan, result, active)
        reasons: dict[int, str | None] = {}
        for place, slot in active:
            slot.computed += result.computed[place]
            if self.canvas.guided:
                slot.computed += result.computed[place + len(self.slots)]
            slot.refreshes += plan.slots[place].refresh
            reasons[place] = slot.advance(statuses[place], self.settings.stop_at_eos, cuts[place])
        if self.settings.callback is not None:
            self._report(active, reasons, result, candidates, committed)
        finished = {}
        for place, slot in active:
            reason = reasons[place]
            if reason is not None:
                finished[slot.sequence] = self._result(place, slot, statuses[place], reason)
                self.slots[place] = None
        return finished

    def _trace(self, plan: StepPlan, result: StackResult, active) -> None:
        capacity = self.canvas.capacity
        layers = [(rows.row_index.cpu(), rows.cu_rows.tolist(), rows) for rows in result.layer_rows]
        for place, slot in active:
            rows = tuple(
                index[bounds[place] : bounds[place + 1]] - place * capacity
                for index, bounds, _ in layers
            )
            slot.trace.append(
                StepTrace(
                    rows,
                    plan.slots[place].refresh,
                    result.boundaries[place],
                    tuple(result.similarities[place]),
                )
            )

    def _report(
        self, active, reasons, result: StackResult, candidates: RowList, committed: Tensor
    ) -> None:
        rows = candidates.row_index[committed].cpu()
        layers = self.model.config.n_layers
        updates = []
        for place, slot in active:
            generated = self.canvas.slot_range(place, slot.prompt_length, slot.length)
            mine = rows[(rows >= generated.start) & (rows < generated.stop)]
            updates.append(
                SequenceUpdate(
                    slot.sequence,
                    slot.step - 1,
                    self.canvas.ids(generated),
                    mine - generated.start,
                    result.computed[place] / layers,
                    reasons[place],
                )
            )
        self.settings.callback(StepEvent(self.forwards - 1, tuple(updates)))

    def _result(self, place: int, slot: Slot, status: SlotStatus, reason: str) -> DecodedSequence:
        canvas = self.canvas
        generated = canvas.slot_range(place, slot.prompt_length, slot.length)
        ids = canvas.ids(generated)
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
            rows_computed=slot.computed,
            rows_vanilla=slot.step * slot.length * layers * passes,
            refreshes=slot.refreshes,
            stop_reason=reason,
            trace=slot.trace if self.settings.trace else None,
        )


def _id_tensor(ids: Sequence[int], device: torch.device) -> Tensor | None:
    return torch.tensor(ids, dtype=torch.int64, device=device) if ids else None
