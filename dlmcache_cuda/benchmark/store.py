"""Repetitions in a file that survives an interruption: one line of JSON each, added at once."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class Store:
    """What has been measured so far.

    Args:
        path: the file; made with its folder where it does not exist. Lines of another
            ``fingerprint`` stay in it and count for nothing: their times must not be mixed.
        fingerprint: of what is measured, see ``machine.fingerprint``.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path = path
        self.fingerprint = fingerprint
        self.others = 0
        self._records: dict[tuple[str, str, int], dict[str, Any]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        for record in _read(path):
            if record.get("fingerprint") != fingerprint:
                self.others += 1
            else:
                self._keep(record)

    def get(self, kind: str, row: str, number: int = 0) -> dict[str, Any] | None:
        """What repetition ``number`` of a row gave; ``kind`` is ``time``, ``memory``, ..."""
        return self._records.get((kind, row, number))

    def add(self, kind: str, row: str, number: int, content: dict[str, Any]) -> None:
        """Keeps it; it is on the disk when this returns."""
        record = {"fingerprint": self.fingerprint, "kind": kind, "row": row, "number": number,
                  **content}  # fmt: skip
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._keep(record)

    def _keep(self, record: dict[str, Any]) -> None:
        self._records[record["kind"], record["row"], record["number"]] = record


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    if text and not text.endswith("\n"):
        # The program was ended while it wrote. The half line goes, so that the next is whole.
        text = text[: text.rfind("\n") + 1]
        path.write_text(text, encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]
