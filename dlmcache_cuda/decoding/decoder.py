"""The decoding loop: slots, one step, and the life of a sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dlmcache_cuda.decoding.arguments import DecodeSettings
from dlmcache_cuda.decoding.canvas import Canvas
from dlmcache_cuda.decoding.control import (
    FREE_SLOT,
    NO_LIMIT,
    ControlBlock,
    StepControl,
    due_rows,
    flatten,
    listed_rows,
    slot_numbers,
)
from dlmcache_cuda.decoding.events import SequenceUpdate, StepEvent
from dlmcache_cuda.decoding.graphs import StepGraphs
from dlmcache_cuda.decoding.orders import draw_orders
from dlmcache_cuda.decoding.output import DecodedSequence
from dlmcache_cuda.decoding.phases import PhaseTimer
from dlmcache_cuda.decoding.recording import Recorder, sequence_trace
from dlmcache_cuda.decoding.regions import Region
from dlmcache_cuda.decoding.repeats import of_slots, whole_ranges
from dlmcache_cuda.decoding.slots import Slot, SlotStatus
from dlmcache_cuda.decoding.step_outcome import StepOutcome
from dlmcache_cuda.decoding.step_program import StepOutput, StepProgram
from dlmcache_cuda.decoding.step_shape import StepShape
from dlmcache_cuda.decoding.trace import SequenceTrace
from dlmcache_cuda.model import Llada
from dlmcache_cuda.policies import (
    CachePolicy,
    Frame,
    SlotPlan,
    SlotView,
    StepPlan,
    StepView,
)
from dlmcache_cuda.profiling import annotated
from dlmcache_cuda.stack import BudgetPlan, SlotRows, Stack, plan_budgets


class SlotDecoder:
    """Decodes sequences in a fixed number of slots; they :meth:`add` in and leave when done.

    Args:
        model: the network.
        policy: decides which rows a step computes; belongs to this decoder.
        settings: lengths and sampler.
        num_slots: sequences in flight.
        capacity: positions of a slot: the longest canvas, a prompt plus ``gen_length``.
        embeds: prompts may be given as embeddings, for which buffers are kept.

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
        embeds: bool = False,
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
            own_log_prob=not self.sampler.confidence_is_log_prob,
            embeds=embeds,
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
        self.recorder = Recorder(self.canvas, model.config.n_layers) if settings.trace else None
        self.random_order = self.sampler.remasking == "random_order"
        self.exact = not reads_nothing(device)
        self.graphs: StepGraphs | None = None
        if captures_steps(settings) and not self.exact and not settings.trace:
            self.graphs = StepGraphs(
                device, self.timer, lambda: [layer.weights for layer in model.layers]
            )
        self._block = ControlBlock.of_slots(
            device,
            num_slots,
            self.canvas.network_slots // num_slots,
            model.config.n_layers,
            capacity,
            num_slots * capacity if policy.lists_rows else 0,
        )
        # Graphs know the table by its address: it must outlive them.
        self._cos_sin = model.cos_sin(capacity)
        self.end_ids = torch.tensor(model.end_token_ids, dtype=torch.int64, device=device)
        self.suppress_ids = _id_tensor(self.sampler.suppress_ids, device)
        self.confidence_suppress_ids = _id_tensor(self.sampler.confidence_suppress_ids, device)

    @property
    def idle(self) -> bool:
        return all(slot is None for slot in self.slots)

    @property
    def sequences(self) -> list[int | None]:
        """Which sequence is in each slot."""
        return [None if slot is None else slot.sequence for slot in self.slots]

    @property
    def has_free_slot(self) -> bool:
        return any(slot is None for slot in self.slots)

    def add(
        self,
        sequence: int,
        prompt_ids: Tensor,
        seed: int,
        settings: DecodeSettings | None = None,
        region: Region | None = None,
        prompt_embeds: Tensor | None = None,
    ) -> int:
        """Puts a sequence into a free slot and returns the slot's number.

        Args:
            sequence: what the caller calls it.
            prompt_ids: ``[P]`` int64.
            seed: of all its random numbers.
            settings: the decoder's for a shorter ``gen_length``, where the sequence has one of its
                own: lengths, and steps per block.
            region: what stands behind the prompt. Default: ``gen_length`` masks.
            prompt_embeds: ``[P, W]`` in the model's dtype: what the prompt has in place of tokens;
                for decoders with ``embeds``.
        """
        settings = settings or self.settings
        place = self.slots.index(None)
        if region is None:
            gen_length, mask_id = settings.gen_length, self.model.mask_token_id
            region = Region.of_masks(prompt_ids.numel(), gen_length, mask_id)
        slot = Slot(
            sequence,
            prompt_ids,
            seed,
            region,
            settings.block_length,
            settings.rule_of(region),
            self.model.shift,
        )
        self.canvas.enter(place, torch.cat((prompt_ids, region.ids)), prompt_embeds)
        self.policy.enter(place)
        self.slots[place] = slot
        if self.recorder is not None:
            self.recorder.enter(place, slot.length)
        return place

    def remove(self, sequence: int) -> None:
        """Frees the slot of a sequence in flight; what it has decoded is dropped.

        Nothing is written: a free slot has no rows, and whoever enters next finds it as new.
        """
        self.slots[self.sequences.index(sequence)] = None

    @annotated("step")
    @torch.no_grad()
    def step(self) -> dict[int, DecodedSequence]:
        """One forward and one commit for every sequence in flight; returns those that ended."""
        with self.timer.phase("plan"):
            if self.random_order:
                draw_orders(self.slots, self.canvas.capacity)
            step = StepView([None if slot is None else slot.view() for slot in self.slots])
            plan = self.policy.plan(step)
            program = self._program(step, plan)
        plan, outcome = self._attempt(step, plan, program)
        boundary = outcome.guessed_wrong(self.exact, self.model.config.n_layers)
        wrong = outcome.of_twins(boundary)
        if any(wrong):
            before = outcome.outputs[-1] if self.canvas.guided else None
            rest = self._run_again(*of_slots(step, plan, wrong), boundary=boundary, before=before)
            outcome.add(rest, wrong)
        self.forwards += 1
        return self._advance(plan, outcome)

    def _attempt(
        self, step: StepView, plan: StepPlan, program: StepProgram
    ) -> tuple[StepPlan, StepOutcome]:
        """Runs a step, again where more rows are marked than were expected, and where they predict
        too little. Returns the plan that was followed."""
        outcome = self._run(step, program)
        if outcome.overflows:
            marked = outcome.marked
            outcome = self._run_again(step, plan, marked=marked)
            outcome.marked = marked
        lacking = outcome.lacking
        if any(lacking):
            plan = whole_ranges(plan, lacking)
            outcome.replace(self._run_again(*of_slots(step, plan, lacking)), lacking)
        return plan, outcome

    def _program(
        self,
        step: StepView,
        plan: StepPlan,
        boundary: Sequence[int | None] | None = None,
        marked: Sequence[int] | None = None,
        before: StepOutput | None = None,
    ) -> StepProgram:
        """What the device has to do, and the numbers that it needs on their way to it.

        Args:
            boundary: the step goes on where a guess was wrong, see :class:`StackStep`.
            before: with guidance, what it goes on with: of twins it may have guessed one right.
            marked: the step is repeated; so many rows of each slot of the network are marked.
        """
        slots = self._slot_rows(step, plan, boundary is not None, marked)
        budgets = self._plan_budgets(slots, boundary)
        shape = self._shape(step, plan, slots, budgets, boundary is not None, marked is not None)
        first = boundary is None and marked is None
        partial = any(
            view is None and slot is not None
            for view, slot in zip(step.slots, self.slots, strict=True)
        )
        captured = self.graphs is not None and first and self._may_capture(plan)
        if captured:
            shape = shape.rounded()
            plan.window_rows = shape.window
        control = self._upload(step, plan, budgets, shape, boundary)
        return StepProgram(
            self, step, plan, control, shape, budgets, boundary, before, partial, captured
        )

    def _run_again(self, step: StepView, plan: StepPlan, **attempt: Any) -> StepOutcome:
        """Another attempt, or the rest of a step; ``attempt``: what :meth:`_program` takes."""
        with self.timer.phase("plan"):
            program = self._program(step, plan, **attempt)
        return self._run(step, program)

    def _run(self, step: StepView, program: StepProgram) -> StepOutcome:
        """Runs a step and reads what it reports: the one time that the host waits for the device,
        unless the step is exact."""
        shape = program.shape
        output = self.graphs.run(shape, program.run) if program.captured else program.run()
        with self.timer.phase("readback"):
            report = self._read(output)
        return StepOutcome.read(output, report, step, shape)

    def _read(self, output: StepOutput) -> list[int]:
        """The report on the host, which waits for it."""
        return output.report.tolist()

    def _slot_rows(
        self, step: StepView, plan: StepPlan, resumes: bool, marked: Sequence[int] | None
    ) -> list[SlotRows]:
        """What every slot of the network brings to its layers."""
        slots = []
        for slot, (view, chosen) in enumerate(zip(step.slots, plan.slots, strict=True)):
            if view is None:
                slots.append(SlotRows(chosen, 0, 0, 0, 0))
                continue
            rows = chosen.end - chosen.begin
            if resumes:
                rows = 0
            elif chosen.marked:
                rows = self._room(view, chosen) if marked is None else marked[slot]
            forced = self.policy.max_forced(view, chosen)
            slots.append(SlotRows(chosen, view.gen_length, view.length, rows, forced))
        return self.canvas.twinned(slots)

    def _room(self, view: SlotView, plan: SlotPlan) -> int:
        """Marked rows of a slot that a step makes room for."""
        most = self.policy.max_rows(view, plan)
        expected = self.policy.expected_rows(view, plan)
        return most if expected is None else min(expected, most)

    def _plan_budgets(
        self, slots: Sequence[SlotRows], boundary: Sequence[int | None] | None
    ) -> BudgetPlan | None:
        """Where the host can know them before the step: not where an exact step tests drift."""
        spec = self.stack.spec
        if spec.selection is None or (self.exact and spec.tracking is not None):
            return None
        return plan_budgets(spec.selection, self.model.config.n_layers, slots, boundary)

    def _shape(
        self,
        step: StepView,
        plan: StepPlan,
        slots: Sequence[SlotRows],
        budgets: BudgetPlan | None,
        resumes: bool,
        repeats: bool,
    ) -> StepShape:
        marked = any(slot.marked for slot in plan.slots)
        unknown = any(slot.marked and slot.rows is None for slot in plan.slots)
        counts = tuple(slot.carried for slot in slots)
        entering, predicted, committable = sum(counts), None, None
        expected = False
        if unknown and not resumes and not repeats and not self.exact:
            expected = any(
                self.policy.expected_rows(view, chosen) is not None
                for view, chosen in zip(step.slots, plan.slots, strict=True)
                if chosen.marked
            )
        whole = self.policy.head_scope == "all"
        if self.random_order:
            predicted = sum(len(view.due) for view in step.slots if view is not None)
        elif not self.exact or not (whole or marked):
            predicted = sum(
                min(
                    slot.num_candidates(chosen),
                    NO_LIMIT if chosen.window is None else chosen.window,
                )
                for slot, view, chosen in zip(self.slots, step.slots, plan.slots, strict=True)
                if view is not None
            )
            if whole:
                # Every row that enters may predict one of the masks.
                masks = sum(_masks_at_most(view) for view in step.slots if view is not None)
                predicted, committable = min(masks, entering), predicted
        if unknown and not resumes:
            counts = tuple(
                None if slot.plan.marked and slot.plan.rows is None else slot.carried
                for slot in slots
            )
            entering = None if self.exact else entering
        return StepShape(
            entering=entering,
            counts=counts,
            predicted=predicted,
            committable=committable,
            listed=sum(len(slot.rows or ()) for slot in plan.slots),
            window=plan.window_rows,
            budgets=None if budgets is None else tuple(budgets.sizes),
            marked=marked,
            expected=expected,
            may_lack=marked and not resumes and self.policy.may_lack_rows,
            limited=any(slot.window is not None for slot in plan.slots),
            sliced=any(slot.slice_shift for slot in plan.slots),
            tested=any(slot.tested for slot in plan.slots) and not resumes,
            cuts=any(self._may_cut(slot) or self._pads(slot) for slot in self.slots),
            given=any(slot is not None and slot.region.has_given for slot in self.slots),
            resumes=resumes,
        )

    def _may_capture(self, plan: StepPlan) -> bool:
        """Refreshes compute so much that launching kernels one by one costs nothing; their row
        counts, which choose dense attention, would make every graph one of a kind."""
        return not any(slot.refresh for slot in plan.slots)

    def _may_cut(self, slot: Slot | None) -> bool:
        cuts = self.policy.cuts_at_eos and self.policy.frame.end_token_id is not None
        return cuts and slot is not None and not slot.was_cut

    def _pads(self, slot: Slot | None) -> bool:
        every = self.policy.pad_steps
        return every is not None and slot is not None and (slot.step + 1) % every == 0

    def _upload(
        self,
        step: StepView,
        plan: StepPlan,
        budgets: BudgetPlan | None,
        shape: StepShape,
        boundary: Sequence[int | None] | None,
    ) -> StepControl:
        numbers = [
            FREE_SLOT
            if view is None
            else slot_numbers(slot, view, chosen, self._may_cut(slot), self._pads(slot))
            for slot, view, chosen in zip(self.slots, step.slots, plan.slots, strict=True)
        ]
        extra = [] if budgets is None else [n for layer in budgets.rows for n in layer]
        extra += listed_rows(plan.slots, self.canvas.capacity, shape.listed)
        if self.random_order:
            extra += due_rows(step.slots, self.canvas.capacity, shape.predicted)
        copies = self.canvas.network_slots // self.canvas.num_slots
        bounds = [0] * self.canvas.network_slots
        if boundary is not None:
            layers, views = self.model.config.n_layers, self.canvas.twinned(step.slots)
            bounds = [
                0 if view is None else layers if bound is None else bound
                for view, bound in zip(views, boundary, strict=True)
            ]
        block = self._block.upload(flatten(numbers, bounds, extra))
        return StepControl(block, len(numbers), copies)

    def _advance(self, plan: StepPlan, outcome: StepOutcome) -> dict[int, DecodedSequence]:
        active = [(place, slot) for place, slot in enumerate(self.slots) if slot is not None]
        statuses = outcome.statuses
        for place, slot in active:
            if statuses[place].invalid:
                raise FloatingPointError(
                    f"sequence {slot.sequence}, step {slot.step}: the model's logits are NaN or "
                    f"infinite, or every token is suppressed, at {statuses[place].invalid} masked "
                    "positions; check the weights and the dtype"
                )
        if self.recorder is not None:
            self.recorder.record(self.slots, plan, outcome)
        reasons: dict[int, str | None] = {}
        for place, slot in active:
            slot.computed += outcome.computed[place]
            if self.canvas.guided:
                slot.computed += outcome.computed[place + len(self.slots)]
            slot.refreshes += plan.slots[place].refresh
            if self.random_order:
                gone = set(outcome.committed[place])
                slot.masks = tuple(p for p in slot.masks if p not in gone)
            if outcome.marked is not None and plan.slots[place].marked:
                slot.rows_before = outcome.marked[place]
            stop_at_eos = self.settings.stop_at_eos
            reasons[place] = slot.advance(statuses[place], stop_at_eos, outcome.cuts[place])
        if self.settings.callback is not None:
            self._report(active, reasons, outcome)
        finished = {}
        for place, slot in active:
            reason = reasons[place]
            if reason is not None:
                finished[slot.sequence] = self._result(place, slot, statuses[place], reason)
                self.slots[place] = None
        return finished

    def _report(self, active, reasons, outcome: StepOutcome) -> None:
        canvas = self.canvas
        rows = torch.cat(outcome.committed_rows())
        layers = self.model.config.n_layers
        tokens = canvas.ids(slice(None))  # all slots in one copy
        drafts = outcome.draft(tokens, canvas.mask_id) if self.settings.drafts else None
        updates = []
        for place, slot in active:
            generated = canvas.slot_range(place, slot.prompt_length, slot.length)
            mine = rows[(rows >= generated.start) & (rows < generated.stop)]
            updates.append(
                SequenceUpdate(
                    slot.sequence,
                    slot.step - 1,
                    tokens[generated].clone(),
                    mine - generated.start,
                    outcome.computed[place] / layers,
                    reasons[place],
                    None if drafts is None else drafts[generated].clone(),
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
            given=slot.region.ids != canvas.mask_id,
            ids=ids,
            visible_ids=visible,
            text=self.model.decode_text(visible),
            commit_step=canvas.commit_step[generated].cpu().clone(),
            confidence=canvas.log_confidence[generated].exp().cpu(),
            log_prob=canvas.log_prob[generated].cpu().clone(),
            forwards=slot.step,
            rows_computed=slot.computed,
            rows_vanilla=slot.step * slot.length * layers * passes,
            refreshes=slot.refreshes,
            stop_reason=reason,
            trace=self._trace(slot),
        )

    def _trace(self, slot: Slot) -> SequenceTrace | None:
        if self.recorder is None:
            return None
        return sequence_trace(slot, self.model, self.policy, self.settings, self.stack.spec)


def reads_nothing(device: torch.device) -> bool:
    """Whether steps leave the device alone until they are over: where asking it is not free."""
    return device.type == "cuda"


def captures_steps(settings: DecodeSettings) -> bool:
    """Whether steps are captured as CUDA graphs."""
    return settings.cuda_graphs


def _masks_at_most(view: SlotView) -> int:
    """Masks in a canvas; those behind an early end are not counted one by one."""
    return view.masks_to_end if view.end == view.length else view.gen_length


def _id_tensor(ids: Sequence[int], device: torch.device) -> Tensor | None:
    return torch.tensor(ids, dtype=torch.int64, device=device) if ids else None
