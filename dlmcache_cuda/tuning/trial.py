"""What is known of a candidate after some prompts."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dlmcache_cuda.tuning.bounds import Loss, loss_bounds
from dlmcache_cuda.tuning.comparison import compare_tokens
from dlmcache_cuda.tuning.evaluator import Candidate, Evaluator, Response, as_ids
from dlmcache_cuda.tuning.scoring import Score, score_of

COSTS = ("rows", "forwards", "seconds")


@dataclass(frozen=True, slots=True)
class Measurement:
    """A candidate against vanilla on some prompts.

    Attributes:
        prompts: how many.
        loss: what it loses of vanilla's tokens, or of the score, with bounds.
        rows, forwards, seconds: what it costs, relative to vanilla on the same prompts.
        score, score_vanilla: mean scores, with a score function.
    """

    prompts: int
    loss: Loss
    rows: float
    forwards: float
    seconds: float
    score: float | None = None
    score_vanilla: float | None = None

    @property
    def agreement(self) -> float:
        """1 - loss: what is compared with the target."""
        return 1 - self.loss.mean

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"agreement": self.agreement}


@dataclass(slots=True)
class Trial:
    """A candidate and what was measured of it.

    Attributes:
        candidate: the settings.
        tuned: on the prompts of the search so far.
        held_out: on prompts that the search did not see; None: not looked at.
        together: on both; None: not looked at.
        verdict: ``hopeless`` (loses more than allowed, as surely as asked for), ``loses too much``
            (more than allowed, or not surely less), ``no cheaper`` (than no cache), ``not
            confirmed`` (by the prompts held out), ``chosen``, or ``open`` (not looked at further).
    """

    candidate: Candidate
    tuned: Measurement
    held_out: Measurement | None = None
    together: Measurement | None = None
    verdict: str = "open"

    def to_dict(self) -> dict[str, Any]:
        held_out = None if self.held_out is None else self.held_out.to_dict()
        together = None if self.together is None else self.together.to_dict()
        return {
            "settings": self.candidate.label,
            "config": dataclasses.asdict(self.candidate.config),
            "overrides": dict(self.candidate.overrides),
            "verdict": self.verdict,
            "tuned": self.tuned.to_dict(),
            "held_out": held_out,
            "together": together,
        }


class Judge:
    """Measures candidates against vanilla.

    Args:
        evaluator: decodes.
        vanilla: the candidate that is vanilla.
        score: judges responses; None: their tokens are compared.
        confidence: of the bounds.
    """

    def __init__(
        self, evaluator: Evaluator, vanilla: Candidate, score: Score | None, confidence: float
    ) -> None:
        self._evaluator, self._vanilla = evaluator, vanilla
        self._score, self._confidence = score, confidence

    def measure(self, candidate: Candidate, prompts: Sequence[int], what: str) -> Measurement:
        """Runs what was not run yet.

        Raises:
            OutOfForwards: see :class:`Evaluator`.
        """
        vanilla = self._evaluator.responses(self._vanilla, prompts, "vanilla")
        responses = self._evaluator.responses(candidate, prompts, what)
        scores = {}
        if self._score is None:
            end = self._evaluator.model.end_token_ids
            differences = [
                compare_tokens(as_ids(one.ids), as_ids(other.ids), end)
                for one, other in zip(responses, vanilla, strict=True)
            ]
            lost = [float(difference.differing) for difference in differences]
            of = [float(difference.tokens) for difference in differences]
        else:
            got, before = self._scores(responses, prompts), self._scores(vanilla, prompts)
            lost = [old - new for old, new in zip(before, got, strict=True)]
            of = [1.0] * len(lost)
            scores = {
                "score": sum(got) / len(got),
                "score_vanilla": sum(before) / len(before),
            }
        costs = {
            name: sum(getattr(one, name) for one in responses)
            / sum(getattr(one, name) for one in vanilla)
            for name in COSTS
        }
        return Measurement(len(prompts), loss_bounds(lost, of, self._confidence), **costs, **scores)

    def _scores(self, responses: Sequence[Response], prompts: Sequence[int]) -> list[float]:
        decode_text = self._evaluator.model.decode_text
        return [
            score_of(index, decode_text(response.visible), self._score)
            for index, response in zip(prompts, responses, strict=True)
        ]
