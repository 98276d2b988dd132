"""One call that is timed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Case:
    """An operator at one shape.

    Attributes:
        op: name of the operator.
        name: the shape, for the table.
        run: makes one call.
        bytes: memory that has to be read and written at least once.
        flops: floating-point operations.
        baseline: plain torch doing the same, or None.
    """

    op: str
    name: str
    run: Callable[[], object]
    bytes: int
    flops: int
    baseline: Callable[[], object] | None = None
