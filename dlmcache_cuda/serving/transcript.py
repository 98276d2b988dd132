"""The text of one sequence while it is decoded: what is final, where it stops, what is counted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Transcript:
    """The final text of a sequence so far.

    Attributes:
        text: final: it never changes, and later ones begin with it.
        num_tokens: tokens of ``text``.
        finish_reason: ``stop`` (an end token or a stop string), ``length``, or None while it goes
            on.
    """

    text: str = ""
    num_tokens: int = 0
    finish_reason: str | None = None


class TranscriptWriter:
    """Turns the committed prefix of a sequence into a :class:`Transcript`.

    Args:
        decode: text of token ids.
        end_ids: a text ends before the first of these.
        max_tokens: tokens of the text at most.
        stop: the text ends before the first of these strings.
    """

    def __init__(
        self,
        decode: Callable[[Sequence[int]], str],
        end_ids: Sequence[int],
        max_tokens: int,
        stop: Sequence[str] = (),
    ) -> None:
        self._decode = decode
        self._end_ids = frozenset(end_ids)
        self._max_tokens = max_tokens
        self._stop = tuple(stop)
        self._known = 0
        self._last = Transcript()

    def update(self, ids: Sequence[int], over: bool = False) -> Transcript:
        """Takes the committed prefix of the generation region, the whole of it, as it is now.

        Args:
            over: nothing will follow.
        """
        if self._last.finish_reason is not None or (len(ids) == self._known and not over):
            return self._last
        self._known = len(ids)
        end = next((place for place, token in enumerate(ids) if token in self._end_ids), None)
        visible = list(ids if end is None else ids[:end])
        reason = None
        if len(visible) >= self._max_tokens:
            visible, reason = visible[: self._max_tokens], "length"
        elif end is not None:
            reason = "stop"
        elif over:
            reason = "length"
        text = self._decode(visible)
        cut = self._find_stop(text)
        if cut is not None:
            text, reason = text[:cut], "stop"
            visible = visible[: self._count_tokens(visible, cut)]
        elif reason is None:
            text = text[: self._final_length(text)]
            if not text.startswith(self._last.text):
                return self._last
        self._last = Transcript(text, len(visible), reason)
        return self._last

    def _find_stop(self, text: str) -> int | None:
        places = [place for stop in self._stop if (place := text.find(stop)) >= 0]
        return min(places, default=None)

    def _count_tokens(self, ids: Sequence[int], length: int) -> int:
        """How many of the tokens a text of so many characters takes."""
        low, high = 0, len(ids)
        while low < high:
            middle = (low + high) // 2
            if len(self._decode(ids[:middle])) < length:
                low = middle + 1
            else:
                high = middle
        return low

    def _final_length(self, text: str) -> int:
        """Characters that what follows cannot change: behind them half a character may stand, or
        the beginning of a stop string."""
        whole = text.rstrip("\ufffd")
        longest = max(map(len, self._stop), default=1) - 1
        held = (
            size
            for size in range(min(longest, len(whole)), 0, -1)
            if any(stop.startswith(whole[-size:]) for stop in self._stop)
        )
        return len(whole) - next(held, 0)
