"""How far the distributions from which a cache commits are from vanilla's.

The cached run is followed. Before a step its canvas is copied; behind the step, the distribution
from which the cache committed position p is the softmax of the head at the hidden row that
predicted p, and vanilla's is the same of one forward of the whole canvas as it was copied. What is
reported is the Kullback-Leibler divergence of the first from the second, KL(vanilla || cached), in
nats: how surprised somebody who knows vanilla's distribution is by the cached one. Since the canvas
is the same for both, the divergence shows what reuse does at that step and not what earlier steps
did.

Both are distributions of the model: with guidance if there is one, before temperature, top-p,
top-k, and suppressed tokens.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from dlmcache_cuda import ops
from dlmcache_cuda.cache import RowList
from dlmcache_cuda.decoding import DecodedSequence
from dlmcache_cuda.decoding.arguments import DecodeSettings
from dlmcache_cuda.decoding.decoder import SlotDecoder
from dlmcache_cuda.decoding.step_outcome import StepOutcome
from dlmcache_cuda.decoding.step_program import StepOutput
from dlmcache_cuda.model import Llada
from dlmcache_cuda.policies import CachePolicy, StepPlan


@dataclass(frozen=True, slots=True)
class Divergence:
    """KL(vanilla || cached) of the distributions from which tokens were committed, in nats.

    Attributes:
        mean, median, maximum: over the committed positions that were looked at.
        same_choice: share of them at which both have the same most probable token.
        positions: how many positions.
        steps: how many steps of a sequence these were committed by.
    """

    mean: float
    median: float
    maximum: float
    same_choice: float
    positions: int
    steps: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


class DivergenceDecoder(SlotDecoder):
    """A decoder that compares with vanilla at every ``stride``-th step of a sequence.

    Args:
        stride: 1 looks at every step; the steps of all sequences are counted together.
        limit: steps looked at, at most; None: no limit.
        all others: as for :class:`SlotDecoder`.
    """

    def __init__(
        self,
        model: Llada,
        policy: CachePolicy,
        settings: DecodeSettings,
        *,
        num_slots: int,
        capacity: int,
        stride: int,
        limit: int | None,
    ) -> None:
        super().__init__(model, policy, settings, num_slots=num_slots, capacity=capacity)
        self._stride, self._limit = stride, limit
        self._steps_made = self._steps_measured = 0
        self._divergences: list[float] = []
        self._same_choices: list[bool] = []
        self._before = self.canvas.network_tokens

    @property
    def divergence(self) -> Divergence | None:
        """What was found; None while nothing was looked at."""
        if not self._divergences:
            return None
        return Divergence(
            mean=statistics.fmean(self._divergences),
            median=statistics.median(self._divergences),
            maximum=max(self._divergences),
            same_choice=statistics.fmean(self._same_choices),
            positions=len(self._divergences),
            steps=self._steps_measured,
        )

    def step(self) -> dict[int, DecodedSequence]:
        self._before = self.canvas.network_tokens.clone()
        return super().step()

    def _advance(self, plan: StepPlan, outcome: StepOutcome) -> dict[int, DecodedSequence]:
        for place, slot in enumerate(self.slots):
            if slot is None:
                continue
            wanted = self._steps_made % self._stride == 0
            self._steps_made += 1
            if wanted and (self._limit is None or self._steps_measured < self._limit):
                for output in outcome.outputs:
                    self._measure(place, slot.length, output)
                self._steps_measured += 1
        return super()._advance(plan, outcome)

    def _measure(self, place: int, length: int, output: StepOutput) -> None:
        """Compares what a step committed in one slot."""
        capacity = self.canvas.capacity
        rows = output.candidates.row_index[output.committed]
        rows = rows[(rows >= place * capacity) & (rows < (place + 1) * capacity)]
        if not len(rows):
            return
        result = output.result
        # The row before a position predicts it on Dream. Where that one did not enter the network
        # (spa with slice_shift), the position's own does.
        row = rows - self.model.shift
        found = self._places(result.rows, row)
        row = torch.where(found < 0, rows, row)
        cached = self._log_probabilities(result.hidden, *self._both(result.rows, row))
        vanilla = self._vanilla(place, length, row - place * capacity)
        divergence = (vanilla.exp() * (vanilla - cached)).nan_to_num(nan=0.0).sum(1)
        # Sums of rounded terms: what is 0 may come out just below it.
        self._divergences += divergence.clamp(min=0.0).tolist()
        self._same_choices += (vanilla.argmax(1) == cached.argmax(1)).tolist()

    @staticmethod
    def _places(rows: RowList, row_index: Tensor) -> Tensor:
        return ops.find_rows(rows.row_index, rows.cu_rows, row_index, rows.capacity)

    def _both(self, rows: RowList, row_index: Tensor) -> tuple[Tensor, Tensor | None]:
        """Where rows stand among ``rows``, and with guidance where their twins stand."""
        places = self._places(rows, row_index)
        if not self.canvas.guided:
            return places, None
        return places, self._places(rows, row_index + self.canvas.tokens.numel())

    def _vanilla(self, place: int, length: int, positions: Tensor) -> Tensor:
        """Log-probabilities ``[n, V]`` of one forward of a slot's canvas before the step."""
        model, capacity = self.model, self.canvas.capacity
        slots = [place, place + self.canvas.num_slots] if self.canvas.guided else [place]
        tokens = torch.cat([self._before[s * capacity : s * capacity + length] for s in slots])
        lengths = [length] * len(slots)
        rows = RowList.from_ranges([0] * len(slots), lengths, length, model.device)
        hidden = model.forward_rows(
            tokens,
            rows,
            model.new_cache(len(slots), length),
            torch.tensor(lengths, dtype=torch.int64, device=model.device),
            lengths,
        )
        # All rows are there, so that a row is its own place.
        return self._log_probabilities(
            hidden, positions, positions + length if self.canvas.guided else None
        )

    def _log_probabilities(self, hidden: Tensor, places: Tensor, twins: Tensor | None) -> Tensor:
        model = self.model
        if twins is None:
            normed = model.normed(hidden, places)
        else:
            normed = model.guided(hidden, places, twins, self.sampler.cfg_scale)
        return model.head_logits(normed).double().log_softmax(1)


def run(
    decoder: SlotDecoder,
    prompt_ids: Sequence[Tensor],
    seeds: Sequence[int],
    on_finished: Callable[[int], None],
) -> list[DecodedSequence]:
    """Decodes prompts to their end, as many at a time as there are slots.

    Args:
        on_finished: called with the number of sequences that have ended.
    """
    finished: dict[int, DecodedSequence] = {}
    waiting = list(range(len(prompt_ids)))
    while len(finished) < len(prompt_ids):
        while waiting and decoder.has_free_slot:
            sequence = waiting.pop(0)
            decoder.add(sequence, prompt_ids[sequence], seeds[sequence])
        ended = decoder.step()
        if ended:
            finished.update(ended)
            on_finished(len(finished))
    return [finished[index] for index in range(len(prompt_ids))]
