"""One step on the device, from marks to commit, in the order in which it happens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dlmcache_cuda import ops
from dlmcache_cuda.cache import RowList
from dlmcache_cuda.decoding.control import StepControl
from dlmcache_cuda.decoding.cuts import cut_at_eos, find_ends, pad_behind_end
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

    report: list[Tensor]
    """What the host has to know, see :meth:`StepOutcome.read`; a single int64 tensor, unless the
    step is exact."""
    parts: dict[str, int]
    """Its parts, in order, and how many numbers each has."""
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
        before: StepOutput | None,
        partial: bool,
        captured: bool,
    ) -> None:
        self.decoder, self.canvas, self.policy = decoder, decoder.canvas, decoder.policy
        self.sampler, self.model = decoder.sampler, decoder.model
        self.step, self.plan, self.control, self.shape = step, plan, control, shape
        self.budgets, self.boundary, self.captured = budgets, boundary, captured
        self.before, self.partial = before, partial

    def run(self) -> StepOutput:
        """Runs the step: network, head, commit, and what the policy learns of them."""
        timer, step, canvas = self.decoder.timer, self.step, self.canvas
        with timer.phase("rows"):
            step.columns = self.control.columns
            step.masked = canvas.masked()
            step.listed = self._extra[1]
            self.policy.mark(step, self.plan)
            rows = self._rows()
        refreshes = self.boundary is not None or any(slot.refresh for slot in self.plan.slots)
        with timer.phase("network"), annotate("refresh" if refreshes else "cached"):
            result = self.decoder.stack.run(self._stack_step(rows))
        lacking = rows.lacking() if self.shape.may_lack else None
        withheld = self._withheld(rows, lacking, result)
        with timer.phase("head"):
            num_commit = self.control.loop.num_commit
            if withheld is not None:
                num_commit = num_commit.masked_fill(withheld, 0)
            prediction = self._predict(result, rows, num_commit)
        with timer.phase("commit"):
            candidates, committed, status = self._commit(rows, prediction, num_commit)
            cuts = self._cut(status) if self.shape.cuts else None
            canvas.mirror()
            self._tell_policy(result, rows, prediction, withheld)
        report = {
            "status": status,
            "cuts": cuts,
            "marked": rows.marked_counts,
            "lacking": lacking,
            "due": committed if self.decoder.random_order else None,
            "computed": None if isinstance(result.computed, tuple) else result.computed,
            "boundaries": result.boundaries,
        }
        report = {name: part.flatten() for name, part in report.items() if part is not None}
        parts = {name: part.numel() for name, part in report.items()}
        wanted = self.decoder.recorder or self.decoder.settings.drafts
        predicted = (rows.predicted, prediction) if wanted else None
        told = list(report.values())
        if not self.decoder.exact:
            told = [torch.cat(told)]
        return StepOutput(told, parts, result, candidates, committed, predicted)

    @cached_property
    def _extra(self) -> tuple[Tensor, Tensor, Tensor]:
        """What the control block holds behind its columns: budgets, listed rows, rows that are due
        and their ``cu_rows``."""
        extra = self.control.extra
        first = 0 if self.budgets is None else sum(map(len, self.budgets.rows))
        if not extra.numel():
            return extra, extra, extra
        sizes = [first, self.shape.listed]
        return extra.split([*sizes, extra.numel() - sum(sizes)])

    def _rows(self) -> StepRows:
        decoder, slots = self.decoder, self.canvas.num_slots
        due = None
        if decoder.random_order:
            listed = self._extra[2]
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
        spec, exact = self.decoder.stack.spec, self.decoder.exact
        return StackStep(
            tokens=canvas.network_tokens,
            rows=rows.entering,
            key_lengths=KeyLengths(control.kv_lens, tuple(canvas.twinned(lengths))),
            plans=canvas.twinned(plan.slots),
            gen_lengths=canvas.twinned(gen_lengths),
            exact=exact,
            tested=None if exact or not spec.tracking else canvas.twins(control.columns.tested) > 0,
            forced=plan.forced,
            forced_counts=rows.forced_counts,
            budgets=self._layer_budgets(),
            window=plan.window,
            # With guidance twins are read as well; what one row predicts twice is not listed twice.
            read=None if canvas.guided or self.shape.sliced else rows.predicting,
            masked=self._masked_to_end() if spec.tracking else None,
            prompt_embeds=canvas.prompt_embeds,
            boundary=self.boundary,
            bounds=None if self.boundary is None else control.bounds,
        )

    def _layer_budgets(self) -> LayerBudgets | None:
        budgets = self.budgets
        if budgets is None:
            return None
        layers, slots = len(budgets.rows), len(budgets.rows[0])
        rows = self._extra[0].view(layers, slots)
        counts = self.shape.counts
        reliable = counts is not None and None not in counts and not budgets.forces_more
        return LayerBudgets(self.shape.budgets, rows, budgets.rows if reliable else None)

    def _masked_to_end(self) -> Tensor:
        """Masks that will be decoded, of all slots of the network. Those behind an early end are
        keys like any other."""
        masked, views = self.step.masked, self.step.slots
        if self.policy.cuts_at_eos and (
            not self.decoder.exact
            or any(view is not None and view.end < view.length for view in views)
        ):
            ahead = self.canvas.positions < self.control.columns.end[:, None]
            masked = masked & ahead.flatten()
        return self.canvas.twins(masked)

    def _withheld(
        self, rows: StepRows, lacking: Tensor | None, result: StackResult
    ) -> Tensor | None:
        """``[S]`` bool: slots whose step is repeated or goes on: nothing is committed yet. None
        where neither can be."""
        reasons = [lacking, self._guessed_wrong(result)]
        if rows.overflows is not None:
            reasons.append(rows.overflows.expand(self.canvas.num_slots))
        reasons = [reason for reason in reasons if reason is not None]
        return torch.stack(reasons).any(0) if reasons else None

    def _guessed_wrong(self, result: StackResult) -> Tensor | None:
        """``[S]`` bool: slots that have layers above a boundary; None where nothing is a guess."""
        if self.decoder.exact or result.boundaries is None:
            return None
        last = self.model.config.n_layers
        wrong = (result.boundaries >= 0) & (result.boundaries < last)
        # A slot goes on with its twin.
        return wrong.view(-1, self.canvas.num_slots).any(0)

    def _predict(self, result: StackResult, rows: StepRows, num_commit: Tensor) -> Prediction:
        decoder, loop = self.decoder, self.control.loop
        hidden, places, twins = result.hidden, rows.places(result.rows), None
        if self.canvas.guided:
            twins = self._twin_places(result.rows, rows.predicting)
        if self.before is not None:
            # Twins that were guessed right have no rows here: they stand where they were computed.
            first, offset = self.before.result, hidden.shape[0]
            hidden = torch.cat((hidden, first.hidden))
            places = _either(places, rows.places(first.rows), offset)
            twins = _either(twins, self._twin_places(first.rows, rows.predicting), offset)
        return self.sampler.predict(
            self.model,
            hidden,
            places,
            rows.predicted,
            loop.seeds,
            loop.steps,
            num_commit,
            uncond_places=twins,
            suppress_ids=decoder.suppress_ids,
            confidence_suppress_ids=decoder.confidence_suppress_ids,
        )

    def _twin_places(self, rows: RowList, predicting: RowList) -> Tensor:
        twins = predicting.shifted(-self.canvas.tokens.numel())
        return ops.find_rows(rows.row_index, rows.cu_rows, twins.row_index, rows.capacity)

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
        if self.shape.given:
            find_ends(canvas, self.control, status, self.decoder.end_ids)
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

    def _cut(self, status: Tensor) -> Tensor | None:
        """Ends sequences early where the policy's method does."""
        if self.policy.cuts_at_eos:
            end_token_id = self.policy.frame.end_token_id
            return cut_at_eos(
                self.canvas,
                self.control,
                self.step.masked,
                end_token_id,
                self.shape.given,
                self.decoder.exact,
            )
        return pad_behind_end(self.canvas, self.control, status)

    def _tell_policy(
        self, result: StackResult, rows: StepRows, prediction: Prediction, withheld: Tensor | None
    ) -> None:
        if not self.policy.follows_commits:
            return
        masked = self.canvas.masked()
        done = None if withheld is None else ~withheld
        if self.partial:
            takes_part = self.control.columns.length > 0
            done = takes_part if done is None else done & takes_part
        self.policy.after_commit(
            StepResult(
                slots=self.step.slots,
                plan=self.plan,
                tokens=self.canvas.tokens,
                masked_before=self.step.masked,
                masked=masked,
                newly=self.step.masked > masked,
                candidates=rows.predicted.row_index,
                log_confidence=prediction.log_confidence,
                tracked=result.tracked,
                importance=result.importance,
                done=done,
            )
        )


def _either(places: Tensor, others: Tensor, offset: int) -> Tensor:
    """Places, and where there are none the others, which stand ``offset`` behind."""
    behind = (others + offset).masked_fill(others < 0, -1)
    return torch.where(places >= 0, places, behind)
