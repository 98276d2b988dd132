"""How long-running calls tell how far they are."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


def check_progress(progress: Progress | None) -> Progress:
    """The callback, or one that does nothing.

    Raises:
        TypeError: it cannot be called.
    """
    if progress is None:
        return lambda what, done, total: None
    if not callable(progress):
        raise TypeError(f"progress must be callable or None, got {type(progress).__name__}")
    return progress
