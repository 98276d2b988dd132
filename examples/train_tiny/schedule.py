"""What is trained when: the stages of the curriculum and the curves over a run."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Stage:
    """Questions trained until the share ``end`` of the run."""

    end: float
    hops: tuple[int, ...]
    facts: tuple[int, ...]
    gen_length: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Stages and curves; all shares are of the whole run."""

    stages: tuple[Stage, ...]
    peak_rate: float
    warm_up: float
    decay: float
    attention_fade: tuple[float, float]  # full supervision before, none after

    def stage_at(self, progress: float) -> tuple[int, Stage]:
        """Number and content of the stage at a share of the run."""
        for index, stage in enumerate(self.stages):
            if progress < stage.end:
                return index, stage
        return len(self.stages) - 1, self.stages[-1]

    def learning_rate(self, progress: float) -> float:
        """Linear warm-up, constant, linear decay to zero."""
        rise = min(1.0, progress / self.warm_up)
        fall = min(1.0, max(0.0, (1.0 - progress) / self.decay))
        return self.peak_rate * max(min(rise, fall), 1e-3)

    def attention_weight(self, progress: float) -> float:
        """Weight of the attention supervision: 1, then a linear fade to 0."""
        begin, end = self.attention_fade
        return min(1.0, max(0.0, (end - progress) / (end - begin)))


UP_TO_EIGHT = (2, 3, 4, 5, 6, 7, 8)
# Short questions first, since lookups are learned fastest there. Lists of more than twelve facts
# are one batch in ten until the last stage; none is as long as those of the hard split.
PLAN = Plan(
    stages=(
        Stage(0.22, (1, 2), (4, 6), 26),
        Stage(0.28, (1, 2, 3), (4, 6, 8), 38),
        Stage(0.36, (2, 3, 4), (6, 8, 10), 48),
        Stage(0.54, (2, 3, 4, 5, 6), (8, 10, 12), 72),
        Stage(0.84, UP_TO_EIGHT, (8, 10, 12) * 6 + (16, 20), 96),
        Stage(1.00, UP_TO_EIGHT, (8, 9, 10, 11, 12, 14, 16, 18, 20), 96),
    ),
    peak_rate=2e-3,
    warm_up=0.02,
    decay=0.35,
    attention_fade=(0.65, 0.80),
)
