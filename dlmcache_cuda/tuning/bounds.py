"""How large a loss may really be, from a few prompts."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist


@dataclass(frozen=True, slots=True)
class Loss:
    """A share lost, and one-sided confidence bounds of it.

    Attributes:
        mean: what was measured.
        lower, upper: what it is at least, and at most, at the confidence asked for.
    """

    mean: float
    lower: float
    upper: float


def loss_bounds(lost: Sequence[float], of: Sequence[float], confidence: float) -> Loss:
    """Bounds of a ratio ``sum(lost) / sum(of)`` over prompts.

    Two errors are looked at and the larger one counts: that of the prompts, by Student's
    distribution over prompts as clusters (tokens of one response go wrong together), and that of
    the units as such, by Wilson's interval (where nothing was lost yet, something still may be).

    Args:
        lost: per prompt: tokens that differ, or score lost (negative: gained).
        of: per prompt: tokens, or 1.
        confidence: of each bound, in [0.5, 1); 0.5 leaves no margin for prompts.
    """
    total, count = sum(of), len(of)
    if total == 0:
        return Loss(0.0, 0.0, 1.0)
    mean = sum(lost) / total
    below, above = _wilson(min(max(mean, 0.0), 1.0), total, confidence)
    error = 0.0
    if count > 1:
        squares = sum((x - mean * n) ** 2 for x, n in zip(lost, of, strict=True))
        error = math.sqrt(squares * count / (count - 1)) / total
        error *= student_quantile(confidence, count - 1)
    return Loss(mean, mean - max(error, below), mean + max(error, above))


def least_upper_bound(total: float, confidence: float) -> float:
    """The upper bound where nothing at all was lost of ``total`` tokens or scores."""
    return _wilson(0.0, total, confidence)[1]


def _wilson(share: float, total: float, confidence: float) -> tuple[float, float]:
    """Wilson's interval around a share, as distances below and above it."""
    z = NormalDist().inv_cdf(confidence)
    scale = 1 + z * z / total
    centre = (share + z * z / (2 * total)) / scale
    spread = z * math.sqrt(share * (1 - share) / total + (z / (2 * total)) ** 2) / scale
    return share - max(centre - spread, 0.0), min(centre + spread, 1.0) - share


def student_quantile(confidence: float, freedom: int) -> float:
    """Quantile of Student's distribution: exact for 1 and 2 degrees of freedom, else the expansion
    around the normal one (Abramowitz and Stegun 26.7.5), within 2 % up to a confidence of 0.99."""
    if freedom == 1:
        return math.tan(math.pi * (confidence - 0.5))
    if freedom == 2:
        return (2 * confidence - 1) * math.sqrt(2 / (4 * confidence * (1 - confidence)))
    z = NormalDist().inv_cdf(confidence)
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )
