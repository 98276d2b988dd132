"""The search for the cheapest settings that lose no more than allowed.

All candidates answer a few of the prompts. Those that lose too much beyond doubt are out; the
others are taken by cost, cheapest first, and answer more and more of the prompts until they are out
too or have answered all. The first whose loss stays within what is allowed, with its margin, is
then put to prompts that nothing was chosen by. If it holds there it is the choice; if not, the next
one is tried.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dlmcache_cuda.tuning.evaluator import Candidate, OutOfForwards
from dlmcache_cuda.tuning.trial import Judge, Trial

# Of the forwards: candidates answer their first prompts with no more, so that the most promising
# ones can be followed.
FIRST_LOOK = 0.6


@dataclass(frozen=True, slots=True)
class Plan:
    """Which prompts are for what.

    Attributes:
        stages: prompts of the search, growing; the last one has all of them.
        held_out: prompts that the choice is confirmed by.
    """

    stages: Sequence[Sequence[int]]
    held_out: Sequence[int]

    @classmethod
    def of(cls, order: Sequence[int], held_out: int) -> Plan:
        """A quarter (at least two), a half and all of the prompts that are not held out."""
        tuning = list(order[held_out:])
        sizes = {max(-(-len(tuning) // part), min(2, len(tuning))) for part in (4, 2, 1)}
        return cls([tuning[:size] for size in sorted(sizes)], list(order[:held_out]))


class Search:
    """Looks at candidates and keeps what it found of each.

    Attributes:
        trials: in the order in which they were looked at first.
        complete: False when the forwards were used up before a choice was made.
    """

    def __init__(self, judge: Judge, plan: Plan, allowed: float, cost: str) -> None:
        self._judge, self._plan = judge, plan
        self._allowed, self._cost = allowed, cost
        self.trials: list[Trial] = []
        self.complete = True

    def first_look(self, candidates: Sequence[Candidate]) -> None:
        """Measures candidates on the first few prompts, as long as there are forwards."""
        for number, candidate in enumerate(candidates, start=1):
            what = f"first look {number}/{len(candidates)}: {candidate.label}"
            try:
                measured = self._judge.measure(candidate, self._plan.stages[0], what)
            except OutOfForwards:
                self.complete = False
                return
            self.trials.append(Trial(candidate, measured))
            self._drop_hopeless(self.trials[-1])

    def choose(self) -> Trial | None:
        """The cheapest trial that holds; None if there is none."""
        for trial in sorted(self.trials, key=self._price):
            if trial.verdict == "hopeless":
                continue
            if getattr(trial.tuned, self._cost) > 1:
                trial.verdict = "no cheaper"
                continue
            try:
                if self._stands(trial) and self._holds(trial):
                    trial.verdict = "chosen"
                    return trial
            except OutOfForwards:
                self.complete = False
                return None
        return None

    def _price(self, trial: Trial) -> tuple[float, float, float]:
        tuned = trial.tuned
        return getattr(tuned, self._cost), tuned.rows, tuned.forwards

    def _drop_hopeless(self, trial: Trial) -> bool:
        if trial.tuned.loss.lower > self._allowed:
            trial.verdict = "hopeless"
        return trial.verdict == "hopeless"

    def _stands(self, trial: Trial) -> bool:
        """Whether it loses little enough on all prompts of the search."""
        for prompts in self._plan.stages[1:]:
            what = f"{trial.candidate.label}, {len(prompts)} prompts"
            trial.tuned = self._judge.measure(trial.candidate, prompts, what)
            if self._drop_hopeless(trial):
                return False
        if trial.tuned.loss.upper > self._allowed:
            trial.verdict = "loses too much"
            return False
        return True

    def _holds(self, trial: Trial) -> bool:
        """Whether the prompts held out confirm it: alone on average, and together with all others
        with the margin."""
        plan, judge = self._plan, self._judge
        what = f"{trial.candidate.label}, held out"
        trial.held_out = judge.measure(trial.candidate, plan.held_out, what)
        trial.together = judge.measure(trial.candidate, [*plan.stages[-1], *plan.held_out], what)
        within = trial.held_out.loss.mean <= self._allowed
        if not within or trial.together.loss.upper > self._allowed:
            trial.verdict = "not confirmed"
            return False
        return True
