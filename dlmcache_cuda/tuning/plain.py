"""Numbers as Python has them: ``decode`` takes numpy's too, but JSON does not."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any


def plain(value: Any) -> Any:
    """``value`` with its numbers, also those in lists and tuples, as int and float."""
    if isinstance(value, bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        return float(value)
    if type(value) in (list, tuple):
        return type(value)(map(plain, value))
    return value
