"""What verify() returns."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from dlmcache_cuda.policies import PolicyConfig, policy_of
from dlmcache_cuda.tuning.comparison import SequenceComparison
from dlmcache_cuda.tuning.divergence import Divergence
from dlmcache_cuda.tuning.table import TextTable, percent


@dataclass(frozen=True, slots=True)
class Verification:
    """Vanilla and a cache side by side.

    Attributes:
        model: name of the model.
        config: settings of the cache.
        settings: the arguments of ``decode`` that both were run with, where not the defaults.
        sequences: one comparison per prompt.
        divergence: of the distributions that tokens were committed from; None if not asked for.
        seconds, seconds_vanilla: wall time of each timed run; empty if not asked for.
    """

    model: str
    config: PolicyConfig
    settings: Mapping[str, Any]
    sequences: Sequence[SequenceComparison]
    divergence: Divergence | None
    seconds: Sequence[float]
    seconds_vanilla: Sequence[float]

    @property
    def cache(self) -> str:
        """Name of the policy."""
        return policy_of(self.config).name

    @property
    def agreement(self) -> float:
        """Share of equal tokens over all prompts; 1 where there was nothing to compare."""
        tokens = sum(sequence.tokens for sequence in self.sequences)
        equal = sum(sequence.equal_tokens for sequence in self.sequences)
        return equal / tokens if tokens else 1.0

    @property
    def answers_equal(self) -> float:
        """Share of prompts with equal answers."""
        return statistics.fmean(sequence.answers_equal for sequence in self.sequences)

    @property
    def first_differing_step(self) -> int | None:
        """The earliest over all prompts; None: no token differs."""
        steps = [sequence.first_differing_step for sequence in self.sequences]
        return min((step for step in steps if step is not None), default=None)

    @property
    def rows_relative(self) -> float:
        """Rows computed, relative to vanilla's."""
        rows = sum(sequence.rows for sequence in self.sequences)
        return rows / sum(sequence.rows_vanilla for sequence in self.sequences)

    @property
    def forwards_relative(self) -> float:
        """Steps of all sequences, relative to vanilla's."""
        forwards = sum(sequence.forwards for sequence in self.sequences)
        return forwards / sum(sequence.forwards_vanilla for sequence in self.sequences)

    @property
    def speed_up(self) -> float | None:
        """Vanilla's time over the cache's: median over pairs of runs; None if not timed."""
        if not self.seconds:
            return None
        pairs = zip(self.seconds_vanilla, self.seconds, strict=True)
        return statistics.median(vanilla / cached for vanilla, cached in pairs)

    @property
    def score(self) -> float | None:
        """Mean score with the cache; None without a ``score``."""
        return _mean([sequence.score for sequence in self.sequences])

    @property
    def score_vanilla(self) -> float | None:
        """Mean score without a cache; None without a ``score``."""
        return _mean([sequence.score_vanilla for sequence in self.sequences])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "model": self.model,
            "cache": self.cache,
            "config": asdict(self.config),
            "settings": dict(self.settings),
            "prompts": len(self.sequences),
            "agreement": self.agreement,
            "answers_equal": self.answers_equal,
            "first_differing_step": self.first_differing_step,
            "score": self.score,
            "score_vanilla": self.score_vanilla,
            "divergence": None if self.divergence is None else self.divergence.to_dict(),
            "rows_relative": self.rows_relative,
            "forwards_relative": self.forwards_relative,
            "speed_up": self.speed_up,
            "seconds": list(self.seconds),
            "seconds_vanilla": list(self.seconds_vanilla),
            "sequences": [sequence.to_dict() for sequence in self.sequences],
        }

    def table(self) -> TextTable:
        """One line per prompt, and what holds for all."""
        scored = self.score is not None
        columns = ["prompt", "tokens", "equal", "first diff. step", "answer"]
        columns += ["score (vanilla)"] if scored else []
        rows = []
        for sequence in self.sequences:
            step = sequence.first_differing_step
            row = [
                str(sequence.prompt),
                str(sequence.tokens),
                percent(sequence.agreement),
                "-" if step is None else str(step),
                "same" if sequence.answers_equal else "differs",
            ]
            if scored:
                row.append(f"{sequence.score:g} ({sequence.score_vanilla:g})")
            relative = sequence.rows / sequence.rows_vanilla
            rows.append(
                [*row, f"{sequence.forwards} ({sequence.forwards_vanilla})", percent(relative)]
            )
        title = f"{self.cache} against no cache: {self.model}, {len(self.sequences)} prompts"
        columns += ["forwards (vanilla)", "rows"]
        return TextTable(title, columns, rows, self._notes())

    def _notes(self) -> list[str]:
        first = self.first_differing_step
        when = "" if first is None else f", the first at step {first}"
        notes = [
            f"tokens equal: {percent(self.agreement)}{when}",
            f"answers equal: {percent(self.answers_equal)}",
        ]
        if self.score is not None:
            notes.append(f"score: {self.score:.4g}, vanilla {self.score_vanilla:.4g}")
        if self.divergence is not None:
            found = self.divergence
            notes.append(
                f"KL(vanilla || cached) where tokens were committed: mean {found.mean:.2g}, median "
                f"{found.median:.2g}, max {found.maximum:.2g} nats; same most probable token "
                f"{percent(found.same_choice)} ({found.positions} positions of {found.steps} steps)"
            )
        notes.append(
            f"rows computed: {percent(self.rows_relative)} of vanilla's; "
            f"forwards: {percent(self.forwards_relative)}"
        )
        if self.speed_up is not None:
            notes.append(
                f"speed: {self.speed_up:.2f} times vanilla's (median of {len(self.seconds)} pairs "
                f"of runs; {statistics.median(self.seconds):.3g} s with the cache)"
            )
        return notes

    def __str__(self) -> str:
        return str(self.table())


def _mean(values: Sequence[float | None]) -> float | None:
    return None if None in values else statistics.fmean(values)
