"""How fast an evaluation decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from dlmcache_cuda.decoding import DecodeStats


@dataclass(frozen=True, slots=True)
class Throughput:
    """What all calls of ``decode`` of one evaluation add up to.

    Attributes:
        sequences: answers decoded.
        visible_tokens: their tokens before the first end token.
        forwards: calls of the network; sequence_forwards: the same counted per sequence.
        rows_computed, rows_vanilla: see :class:`dlmcache_cuda.DecodeStats`.
        seconds: wall time of decoding; of several processes that of the slowest.
        truncated_prompts: prompts that were cut at their beginning to fit into the model.
        processes: how many decoded.
    """

    sequences: int = 0
    visible_tokens: int = 0
    forwards: int = 0
    sequence_forwards: int = 0
    rows_computed: int = 0
    rows_vanilla: int = 0
    seconds: float = 0.0
    truncated_prompts: int = 0
    processes: int = 1

    def with_call(self, stats: DecodeStats, sequences: int) -> Throughput:
        """These and one more call."""
        return Throughput(
            self.sequences + sequences,
            self.visible_tokens + stats.visible_tokens,
            self.forwards + stats.forwards,
            self.sequence_forwards + stats.sequence_forwards,
            self.rows_computed + stats.rows_computed,
            self.rows_vanilla + stats.rows_vanilla,
            self.seconds + stats.seconds["total"],
            self.truncated_prompts,
            self.processes,
        )

    @classmethod
    def of_processes(cls, parts: Sequence[Throughput]) -> Throughput:
        """What processes that worked side by side did together."""
        summed = (
            "sequences", "visible_tokens", "forwards", "sequence_forwards", "rows_computed",
            "rows_vanilla", "truncated_prompts", "processes",
        )  # fmt: skip
        sums = {name: sum(getattr(part, name) for part in parts) for name in summed}
        return cls(seconds=max(part.seconds for part in parts), **sums)

    @property
    def tokens_per_second(self) -> float:
        return self.visible_tokens / self.seconds if self.seconds else 0.0

    @property
    def tokens_per_forward(self) -> float:
        """Visible tokens per forward of a sequence."""
        return self.visible_tokens / self.sequence_forwards if self.sequence_forwards else 0.0

    @property
    def rows_relative(self) -> float:
        """Rows computed, as a share of what vanilla computes in as many forwards."""
        return self.rows_computed / self.rows_vanilla if self.rows_vanilla else 0.0

    def to_dict(self) -> dict[str, Any]:
        return {
            "sequences": self.sequences,
            "visible_tokens": self.visible_tokens,
            "tokens_per_second": self.tokens_per_second,
            "tokens_per_forward": self.tokens_per_forward,
            "forwards": self.forwards,
            "sequence_forwards": self.sequence_forwards,
            "rows_relative": self.rows_relative,
            "seconds": self.seconds,
            "truncated_prompts": self.truncated_prompts,
            "processes": self.processes,
        }
