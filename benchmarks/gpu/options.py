"""What every part is run with."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

DEVICES = ("cuda", "cpu")
SIZES = ("8b", "tiny")


@dataclass(frozen=True, slots=True)
class Options:
    """How one part runs.

    Attributes:
        device: ``cuda`` or ``cpu``.
        size: of the model with random weights: ``8b`` (LLaDA-8B) or ``tiny``.
        quick: the fewest cases and repetitions: a dry run.
        full: all cases, whatever they take.
        out: folder of the results.
        seconds: no case begins later than this; those left are done by the next run.
    """

    device: str
    size: str
    out: Path
    quick: bool = False
    full: bool = False
    seconds: float = float("inf")
    begin: float = field(default_factory=time.monotonic)

    @property
    def time_is_up(self) -> bool:
        return time.monotonic() - self.begin > self.seconds

    @property
    def scope(self) -> str:
        """What results of two runs must have in common to be of one kind."""
        cases = "quick" if self.quick else "full" if self.full else "default"
        return f"{self.device} {self.size} {cases}"
