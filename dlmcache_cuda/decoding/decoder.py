"""The decoding loop: slots, one step, and the life of a sequence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dlmcache_cuda.decoding.arguments import DecodeSettings
from dlmcache_cuda.decoding.canvas import Canvas
from dlmcache_cuda.decoding.events import SequenceUpdate, StepEvent
from dlmcache_cuda.decoding.graphs import StepGraphs
from dlmcache_cuda.decoding.memory import check_memory, predict, slot_capacity
from dlmcache_cuda.decoding.orders import draw_orders
from dlmcache_cuda.decoding.output import DecodedSequence
from dlmcache_cuda.decoding.phases import PhaseTimer
from dlmcache_cuda.decoding.recording import Recorder, sequence_trace
from dlmcache_cuda.decoding.regions import Region
from dlmcache_cuda.decoding.repeats import of_slots, whole_ranges
from dlmcache_cuda.decoding.slots import Slot, SlotStatus
from dlmcache_cuda.decoding.step_outcome import StepOutcome
from dlmcache_cuda.decoding.step_planner import StepPlanner
from dlmcache_cuda.decoding.step_program import StepOutput, StepProgram
from dlmcache_cuda.decoding.trace import SequenceTrace
from dlmcache_cuda.freed_memory import ResidentBound
from dlmcache_cuda.model import Llada
from dlmcache_cuda.policies import (
    CachePolicy,
    Frame,
    StepPlan,
    StepView,
)
from dlmcache_cuda.profiling import annotated
from dlmcache_cuda.stack import Stack


class SlotDecoder:
    """Decodes sequences in a fixed number of slots; they :meth:`add` in and leave when done.

    Args:
        model: the network.
        policy: decides which rows a step computes; belongs to this decoder.
        settings: lengths and sampler.
        num_slots: sequences in flight.
        capacity: positions of a slot: the longest canvas, a prompt plus ``gen_length``.
        embeds: prompts may be given as embeddings, for which buffers are kept.
        bound: what the process is kept near, between two steps.

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
        bound: ResidentBound | None = None,
    ) -> None:
        self._bound = bound
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
        self._planner = StepPlanner(self)
        # Graphs know the table by its address: it must outlive them.
        self._cos_sin = model.cos_sin(capacity)
        self.end_ids = torch.tensor(model.end_token_ids, dtype=torch.int64, device=device)
        self.suppress_ids = _id_tensor(self.sampler.suppress_ids, device)
        self.confidence_suppress_ids = _id_tensor(self.sampler.confidence_suppress_ids, device)

    @classmethod
    def fitting(
        cls,
        model: Llada,
        policy: CachePolicy,
        settings: DecodeSettings,
        *,
        num_slots: int,
        lengths: Sequence[int],
        embeds: bool = False,
    ) -> SlotDecoder:
        """One for canvases of these lengths, which on a CPU keeps the process near the memory that
        was predicted.

        Raises:
            MemoryError: the model's device has less memory available than that.
        """
        needed = predict(model, policy, settings, num_slots, lengths=lengths, embeds=embeds)
        check_memory(model, needed)
        on_cpu = model.device.type == "cpu"
        return cls(
            model,
            policy,
            settings,
            num_slots=num_slots,
            capacity=slot_capacity(max(lengths)),
            embeds=embeds,
            bound=ResidentBound(needed.needed, needed.total) if on_cpu else None,
        )

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
        if self._bound is not None:
            self._bound.look()
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
        slots = self._planner.slot_rows(step, plan, boundary is not None, marked)
        budgets = self._planner.budgets(slots, boundary)
        shape = self._planner.shape(
            step, plan, slots, budgets, boundary is not None, marked is not None
        )
        first = boundary is None and marked is None
        partial = any(
            view is None and slot is not None
            for view, slot in zip(step.slots, self.slots, strict=True)
        )
        captured = self.graphs is not None and first and self._planner.may_capture(plan)
        if captured:
            shape = shape.rounded()
            plan.window_rows = shape.window
        control = self._planner.upload(step, plan, budgets, shape, boundary)
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
        return [number for part in output.report for number in part.tolist()]

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


def _id_tensor(ids: Sequence[int], device: torch.device) -> Tensor | None:
    return torch.tensor(ids, dtype=torch.int64, device=device) if ids else None
