"""The modules of examples/train_tiny, imported for one test module and removed afterwards."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

FOLDER = Path(__file__).parents[2] / "examples" / "train_tiny"


@pytest.fixture(scope="module")
def train_tiny() -> Iterator[SimpleNamespace]:
    """Their names are common words (`model`, `task`), so they must not stay importable."""
    names = [path.stem for path in FOLDER.glob("*.py")]
    hidden = {name: sys.modules.pop(name) for name in names if name in sys.modules}
    sys.path.insert(0, str(FOLDER))
    try:
        yield SimpleNamespace(**{name: importlib.import_module(name) for name in names})
    finally:
        sys.path.remove(str(FOLDER))
        for name in names:
            sys.modules.pop(name, None)
        sys.modules.update(hidden)
