"""What benchmarks of a single table write."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def write_lines(path: Path, header: dict[str, Any], lines: Sequence[dict[str, Any]]) -> None:
    """The lines of a table and what they were measured with, as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"header": header, "lines": lines}, indent=2) + "\n")
    print(f"\nwritten to {path}")
