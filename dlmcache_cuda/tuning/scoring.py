"""The user's own functions that judge responses."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from numbers import Real

from dlmcache_cuda.decoding import DecodedSequence

Answer = Callable[[str], Hashable]
"""From a response to the answer in it."""

Score = Callable[[int, str], float]
"""From a prompt's index and the response to how good it is, 0 to 1; booleans will do."""


def check_functions(answers: Answer | None = None, score: Score | None = None) -> None:
    """Refuses what cannot be called."""
    for name, function in (("answers", answers), ("score", score)):
        if function is not None and not callable(function):
            raise TypeError(f"{name} must be callable or None, got {type(function).__name__}")


def answer_of(sequence: DecodedSequence, answers: Answer | None) -> Hashable:
    """The answer in a response: by the user's function, or the visible text (ids without one)."""
    text = sequence.text
    if answers is not None:
        return answers(_text(text, "answers"))
    return tuple(sequence.visible_ids.tolist()) if text is None else text.strip()


def score_of(index: int, text: str | None, score: Score) -> float:
    """What the user's function gives a response.

    Raises:
        TypeError, ValueError: it gives no number from 0 to 1, or the checkpoint has no tokenizer.
    """
    value = score(index, _text(text, "score"))
    if not isinstance(value, Real):
        raise TypeError(f"score must return a number from 0 to 1, got {value!r}")
    if not math.isfinite(value) or not 0 <= value <= 1:
        raise ValueError(f"score must return a number from 0 to 1, got {value}")
    return float(value)


def _text(text: str | None, name: str) -> str:
    if text is None:
        raise ValueError(f"{name} needs texts, and this checkpoint has no tokenizer")
    return text
