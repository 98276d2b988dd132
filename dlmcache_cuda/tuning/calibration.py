"""What calibrate() returns."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlmcache_cuda.policies import CalibratedCache
from dlmcache_cuda.tuning.table import TextTable, percent
from dlmcache_cuda.tuning.trial import Trial


@dataclass(frozen=True, slots=True)
class Calibration:
    """Settings that were tried, and the one that was chosen.

    Attributes:
        model: name of the model.
        policy: name of the cache.
        settings: the arguments of ``decode`` of all trials, where not the defaults.
        target: agreement (1 - loss) asked for; confidence: how surely.
        measure: ``agreement`` of tokens, or ``score``.
        cost: what was to be small: ``rows``, ``forwards`` or ``seconds``.
        prompts, held_out: prompts of the search, and those that the choice was confirmed by.
        forwards: steps of sequences that the call made; max_forwards: how many it might.
        complete: False when these were used up before a choice was made.
        candidates: how many there were; trials: those that were looked at.
        chosen: the choice, one of the trials; None when none holds.
    """

    model: str
    policy: str
    settings: Mapping[str, Any]
    target: float
    confidence: float
    measure: str
    cost: str
    prompts: int
    held_out: int
    forwards: int
    max_forwards: int
    complete: bool
    candidates: int
    trials: Sequence[Trial]
    chosen: Trial | None

    @property
    def cache(self) -> CalibratedCache:
        """The choice, for ``decode(cache=...)``.

        Raises:
            ValueError: there is none.
        """
        if self.chosen is None:
            raise ValueError(self.why_nothing())
        held_out, together = self.chosen.held_out, self.chosen.together
        found = {
            "model": self.model,
            "measure": self.measure,
            "target": self.target,
            "confidence": self.confidence,
            "prompts": self.prompts,
            "held_out_prompts": self.held_out,
            "tuned": self.chosen.tuned.to_dict(),
            "held_out": None if held_out is None else held_out.to_dict(),
            "together": None if together is None else together.to_dict(),
        }
        return CalibratedCache(
            self.chosen.candidate.config,
            dict(self.settings) | dict(self.chosen.candidate.overrides),
            found,
        )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the choice as a file for ``decode(cache=path)``; its name must end in ``.json``.

        Raises:
            ValueError: there is no choice, or the name ends in something else.
        """
        if Path(path).suffix != ".json":
            raise ValueError(f"path must end in .json, got {str(path)!r}")
        return self.cache.save(path)

    def why_nothing(self) -> str:
        """What kept every trial from being chosen, and what to change."""
        if not self.complete:
            return (
                f"max_forwards={self.max_forwards} was used up before settings of {self.policy!r} "
                f"were found that keep {self.measure} at {self.target:g}: allow more (with a state "
                "file what was done is not done again), or give fewer prompts"
            )
        text = (
            f"no settings of {self.policy!r} keep {self.measure} at {self.target:g} with "
            f"confidence {self.confidence:g} on these {self.prompts + self.held_out} prompts"
        )
        if self.trials:
            best = min(self.trials, key=lambda trial: trial.tuned.loss.upper)
            loss = best.tuned.loss
            text += (
                f"; closest: {best.candidate.label}, {1 - loss.mean:.4f} measured on "
                f"{best.tuned.prompts} prompts, at least {1 - loss.upper:.4f}"
            )
        return f"{text}. Lower the target or the confidence, or give more prompts"

    def frontier(self) -> list[Trial]:
        """Trials that no other one beats in both cost and loss, cheapest first."""
        found: list[Trial] = []
        for trial in sorted(
            self.trials, key=lambda t: (getattr(t.tuned, self.cost), t.tuned.loss.mean)
        ):
            if not found or trial.tuned.loss.mean < found[-1].tuned.loss.mean:
                found.append(trial)
        return found

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "model": self.model,
            "policy": self.policy,
            "settings": dict(self.settings),
            "target": self.target,
            "confidence": self.confidence,
            "measure": self.measure,
            "cost": self.cost,
            "prompts": self.prompts,
            "held_out_prompts": self.held_out,
            "forwards": self.forwards,
            "max_forwards": self.max_forwards,
            "complete": self.complete,
            "candidates": self.candidates,
            "chosen": None if self.chosen is None else self.chosen.to_dict(),
            "frontier": [trial.candidate.label for trial in self.frontier()],
            "trials": [trial.to_dict() for trial in self.trials],
        }

    def table(self, *, all_trials: bool = False) -> TextTable:
        """The frontier and what was looked at closely, or all trials; cheapest first."""
        frontier = {id(trial) for trial in self.frontier()}
        shown = [
            trial
            for trial in self.trials
            if all_trials or id(trial) in frontier or trial.verdict in _CLOSE
        ]
        shown.sort(key=lambda trial: getattr(trial.tuned, self.cost))
        rows = [_row(trial, id(trial) in frontier) for trial in shown]
        kept = "agreement" if self.measure == "agreement" else "score kept"
        columns = ("settings", "", "rows", "forwards", "seconds", "prompts", kept, "at least",
                   "held out", "verdict")  # fmt: skip
        notes = [
            "* on the frontier: nothing else tried is both cheaper and closer to vanilla. "
            "rows, forwards and seconds: of vanilla's, on the same prompts. at least: with "
            f"confidence {self.confidence:g}.",
            f"{len(self.trials)} of {self.candidates} candidates looked at, {self.forwards} "
            f"forwards; {self.prompts} prompts to search with, {self.held_out} held out.",
        ]
        if self.chosen is None:
            notes.append(self.why_nothing())
        else:
            notes.append(f"chosen: {self.policy} {self.chosen.candidate.label}")
        title = f"{self.policy} on {self.model}: {self.measure} of {self.target:g}"
        return TextTable(title, columns, rows, notes)

    def __str__(self) -> str:
        return str(self.table())


# Verdicts on what was looked at closely.
_CLOSE = ("chosen", "loses too much", "not confirmed")


def _row(trial: Trial, on_frontier: bool) -> list[str]:
    tuned, held_out = trial.tuned, trial.held_out
    return [
        trial.candidate.label,
        "*" if on_frontier else "",
        percent(tuned.rows),
        percent(tuned.forwards),
        percent(tuned.seconds),
        str(tuned.prompts),
        percent(tuned.agreement),
        percent(1 - tuned.loss.upper),
        "" if held_out is None else percent(held_out.agreement),
        trial.verdict,
    ]
