"""One step on the device, from marks to commit, in the order in which it happens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dlmcache_cuda import ops
from dlmcache_cuda.cache import RowList
from dlmcache_cuda.decoding.control import StepControl
from dlmcache_cuda.decoding.cuts import cut_at_eos, pad_behind_end
from dlmcache_cuda.decoding.step_rows import StepRows
from dlmcache_cuda.decoding.step_shape import StepShape
from dlmcache_cuda.model import Prediction
from dlmcache_cuda.model.attention import KeyLengths
from dlmcache_cuda.policies import StepPlan, StepResult, StepView
from dlmcache_cuda.profiling import annotate
from dlmcache_cuda.stack import BudgetPlan, LayerBudgets, StackResult, StackStep

if TYPE_CHECKING:
    from dlmcache_cuda.decoding.decoder import SlotDecoder


@dataclass(slots=True)
class StepOutput:
    """What a step leaves on the device. A captured step overwrites it when it runs again."""

    report: Tensor
    """int64: what the host has to know, see :meth:`StepOutcome.read`."""
    result: StackResult
    candidates: RowList
    committed: Tensor
    """``[Q]`` bool: candidates that were committed."""
    predicted: tuple[RowList, Prediction] | None = None
    """All masked positions that the head predicted and what it said, where a trace or drafts are
    wanted."""


class StepProgram:
    """Computes one step of a decoder.

    Unless the step is exact, nothing is read from the device, no size depends on data, and with the
    same decoder and shape the same operators run: the program can be captured as a CUDA graph and
    replayed on another control block.
    """

    def __init__(
        self,
        decoder: SlotDecoder,
        step: StepView,
        plan: StepPlan,
        control: StepControl,
        shape: StepShape,
        budgets: BudgetPlan | None,
        boundary: Sequence[int | None] | None,
        captured: bool,
    ) -> None:
        self.decoder, self.canvas, self.policy = decoder, decoder.canvas, decoder.policy
        self.sampler, self.model = decoder.sampler, decoder.model
        self.step, self.plan, self.control, self.shape = step, plan, control, shape
        self.budgets, self.boundary, self.captured = budgets, boundary, captured

    def run(self) -> StepOutput:
        """Runs the step: network, head, commit, and what the policy learns of them."""
        timer, step, canvas = self.decoder.timer, self.step, self.canvas
        with timer.phase("rows"):
            step.columns = self.control.columns
            if not self.policy.reads_device:
                step.masked = canvas.masked()
            self.policy.mark(step, self.plan)
            rows = self._rows()
        refreshes = self.boundary is not None or any(slot.refresh for slot in self.plan.slots)
        with timer.phase("network"), annotate("refresh" if refreshes else "cached"):
            result = self.decoder.stack.run(self._stack_step(rows))
            wrong = self._guessed_wrong(result)
        with timer.phase("head"):
            num_commit = self.control.loop.num_commit
            if wrong is not None:
                num_commit = num_commit.masked_fill(wrong, 0)
            prediction = self._predict(result, rows, num_commit)
        with timer.phase("commit"):
            candidates, committed, status = self._commit(rows, prediction, num_commit)
            cuts = self._cut(status) if self.shape.cuts else None
            canvas.mirror()
            self._tell_policy(result, rows, prediction, wrong)
            report = [status, cuts, result.computed, result.boundaries]
            report = torch.cat([part.flatten() for part in report if part is not None])
        wanted = self.decoder.recorder or self.decoder.settings.drafts
        predicted = (rows.predicted, prediction) if wanted else None
        return StepOutput(report, result, candidates, committed, predicted)

    def _rows(self) -> StepRows:
        decoder, slots = self.decoder, self.canvas.num_slots
        due = None
        if decoder.random_order:
            first = 0 if self.budgets is None else sum(map(len, self.budgets.rows))
            listed = self.control.extra[first:]
            due = (listed[: -(slots + 1)], listed[-(slots + 1) :])
        return StepRows(
            self.canvas,
            self.step,
            self.plan,
            self.control,
            self.shape,
            shift=self.model.shift,
            whole=self.policy.head_scope == "all",
            due=due,
        )

    def _stack_step(self, rows: StepRows) -> StackStep:
        canvas, plan, step, control = self.canvas, self.plan, self.step, self.control
        views = step.slots
        lengths = [0 if view is None else view.length for view in views]
        gen_lengths = [0 if view is None else view.gen_length for view in views]
        spec = self.decoder.stack.spec
        return StackStep(
            tokens=canvas.network_tokens,
            rows=rows.entering,
            key_lengths=KeyLengths(control.kv_lens, tuple(canvas.twinned(lengths))),
            plans=canvas.twinned(plan.slots),
            gen_lengths=canvas.twinned(gen_lengths),
            exact=self.decoder.exact,
            tested=canvas.twins(control.columns.tested) > 0 if spec.tracking else None,
            forced=plan.forced,
            forced_counts=rows.forced_counts,
            budgets=self._layer_budgets(),
            window=plan.window,
            masked=self._masked_to_end() if spec.tracking else None,
            boundary=self.boundary,
            bounds=None if self.boundary is None else control.loop.boundary,
        )

    def _layer_budgets(self) -> LayerBudgets | None:
        budgets = self.budgets
        if budgets is None:
            return None
        layers, slots = len(budgets.rows), len(budgets.rows[0])
        rows = self.control.extra[: layers * slots].view(layers, slots)
        reliable = self.shape.counts is not None and not budgets.forces_more
        return LayerBudgets(self.shape.budgets, rows, budgets.rows if reliable else None)

    def _masked_to_end(self) -> Tensor:
        """Masks that will be decoded, of all slots of the network. Those behind an early end are
        keys like any other."""
        masked = self.step.masked
        if self.policy.cuts_at_eos:
            positions = torch.arange(self.canvas.capacity, device=masked.device)
            ahead = positions < self.control.columns.end[:, None]
            masked = masked & ahead.flatten()
        return self.canvas.twins(masked)

    def _guessed_wrong(self, result: StackResult) -> Tensor | None:
        """``[S]`` bool: slots that have layers above a boundary; None where nothing is a guess."""
        if self.decoder.exact or result.boundaries is None:
            return None
        last = self.model.config.n_layers
        return (result.boundaries >= 0) & (result.boundaries < last)

    def _predict(self, result: StackResult, rows: StepRows, num_commit: Tensor) -> Prediction:
        decoder, loop = self.decoder, self.control.loop
        twins = None
        if self.canvas.guided:
            twins = self._twin_places(result.rows, rows.predicted)
        return self.sampler.predict(
            self.model,
            result.hidden,
            rows.places(result.rows),
            rows.predicted,
            loop.seeds,
            loop.steps,
            num_commit,
            uncond_places=twins,
            suppress_ids=decoder.suppress_ids,
            confidence_suppress_ids=decoder.confidence_suppress_ids,
        )

    def _twin_places(self, rows: RowList, predicted: RowList) -> Tensor:
        offset = self.canvas.tokens.numel() - self.model.shift
        unused = predicted.row_index < 0
        twins = (predicted.row_index + offset).masked_fill(unused, -1)
        return ops.find_rows(rows.row_index, rows.cu_rows, twins, rows.capacity)

    def _commit(
        self, rows: StepRows, prediction: Prediction, num_commit: Tensor
    ) -> tuple[RowList, Tensor, Tensor]:
        canvas, rule = self.canvas, self.sampler.rule
        candidates, committable = rows.committable(prediction)
        committed, status = ops.commit_(
            canvas.tokens,
            canvas.commit_step,
            canvas.log_confidence,
            candidates.row_index,
            candidates.cu_rows,
            self._final(committable.token),
            committable.log_confidence,
            self._score(candidates, committable),
            num_commit,
            self.control.loop.steps,
            self.control.spans,
            self.decoder.end_ids,
            canvas.mask_id,
            canvas.capacity,
            rule.code,
            rule.value,
        )
        if committable.log_prob is not None:
            rows = candidates.row_index.masked_fill(~committed, -1)
            ops.scatter_rows_(canvas.log_prob, committable.log_prob, rows)
        return candidates, committed, status

    def _final(self, token: Tensor) -> Tensor:
        """Tokens to commit, with a stand-in for masks where these are final."""
        final = self.canvas.final_mask_id
        return token if final is None else token.masked_fill(token == self.canvas.mask_id, final)

    def _score(self, candidates: RowList, prediction: Prediction) -> Tensor | None:
        """What ranks the candidates; None: their confidence."""
        if self.sampler.ranks_by_confidence:
            score = self.policy.score(self.step, candidates.row_index, prediction.log_confidence)
            if score is not None:
                return score
        loop = self.control.loop
        return self.sampler.score(prediction, candidates, loop.seeds, loop.steps)

    def _cut(self, status: Tensor) -> Tensor:
        """Ends sequences early where the policy's method does."""
        if self.policy.cuts_at_eos:
            end_token_id = self.policy.frame.end_token_id
            return cut_at_eos(self.canvas, self.control, self.step.masked, end_token_id)
        return pad_behind_end(self.canvas, self.control, status)

    def _tell_policy(
        self, result: StackResult, rows: StepRows, prediction: Prediction, wrong: Tensor | None
    ) -> None:
        masked = self.canvas.masked()
        done = None
        if wrong is not None:
            done = ~wrong
        elif self.boundary is not None:
            done = self.control.columns.length > 0
        self.policy.after_commit(
            StepResult(
                slots=self.step.slots,
                plan=self.plan,
                tokens=self.canvas.tokens,
                masked_before=self.step.masked,
                masked=masked,
                newly=self.step.masked & ~masked,
                candidates=rows.predicted.row_index,
                log_confidence=prediction.log_confidence,
                tracked=result.tracked,
                importance=result.importance,
                done=done,
            )
        )
