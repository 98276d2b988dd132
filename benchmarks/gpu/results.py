"""The results of one part in a JSON file, written after every case, so that a run can go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

SCHEMA = 1
PASSED, FAILED, INCOMPLETE = "passed", "failed", "incomplete"


class PartResults:
    """Results by case.

    Args:
        path: the JSON file. What it holds is kept if it has the same key: cases that failed are
            done again, the others are not.
        part: name of the part.
        key: what the results are for.
        machine: the header that stands in the file.
    """

    def __init__(self, path: Path, part: str, key: str, machine: dict[str, Any]) -> None:
        self.path = path
        self.part = part
        self.key = key
        self.machine = machine
        self.cases: dict[str, dict[str, Any]] = {}
        self.left: list[str] = []
        self.headline: list[dict[str, Any]] = []
        if path.exists():
            before = json.loads(path.read_text())
            if before["schema"] == SCHEMA and before["key"] == key:
                cases = before["cases"].items()
                self.cases = {name: case for name, case in cases if "failed" not in case}

    @property
    def status(self) -> str:
        if any("failed" in case for case in self.cases.values()):
            return FAILED
        return INCOMPLETE if self.left or not self.cases else PASSED

    def add(self, name: str, case: dict[str, Any]) -> None:
        self.cases[name] = case
        self.write()

    def write(self) -> None:
        content = {
            "schema": SCHEMA,
            "part": self.part,
            "key": self.key,
            "status": self.status,
            "machine": self.machine,
            "headline": self.headline,
            "left": self.left,
            "cases": self.cases,
        }
        # Renamed into place: an interrupted run leaves no half of a file.
        partial = self.path.with_suffix(".partial.json")
        partial.write_text(json.dumps(content, indent=1) + "\n")
        partial.replace(self.path)
