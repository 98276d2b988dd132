"""One module per operator family, each with ``cases(device) -> Iterator[Case]``."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator, Sequence

from benchmarks.case import Case


def families() -> list[str]:
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def all_cases(device: str, names: Sequence[str] | None = None) -> Iterator[Case]:
    """The cases of these families, of all by default; inputs are made one case at a time."""
    for name in families() if names is None else names:
        yield from importlib.import_module(f"{__name__}.{name}").cases(device)
