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

    Raises:
        ValueError: a line of the file is damaged.
    """

    def __init__(self, path: Path, fingerprint: str) -> None:
        self.path = path
        self.fingerprint = fingerprint
        self.others = 0
        self._records: dict[tuple[str, str, int], dict[str, Any]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        for record in _read(path, fingerprint):
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


_TYPES = {"kind": str, "row": str, "number": int}
# What is read of a line that tells of no failure, by its kind.
_CONTENT = {
    "time": (
        "seconds", "cpu_seconds", "forwards", "sequence_forwards", "visible_tokens",
        "rows_computed", "rows_vanilla", "refresh_forwards", "refresh_seconds", "step_seconds",
        "right", "digests", "phases", "peak_bytes",
    ),
    "drift": ("drifted",),
}  # fmt: skip


def _read(path: Path, fingerprint: str) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    content = path.read_bytes()
    complete, newline, half = content.rpartition(b"\n")
    if half:
        # The program was ended while it wrote. The half line goes, so that the next is whole.
        with path.open("r+b") as file:
            file.truncate(len(complete) + len(newline))
    lines = complete.split(b"\n") if newline else []
    return [_parsed(path, number, line, fingerprint) for number, line in enumerate(lines, start=1)]


def _parsed(path: Path, number: int, line: bytes, fingerprint: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
        what = _damage(record, fingerprint)
    except ValueError:  # of bytes that are no text, too
        what = "is empty" if not line.strip() else "is not JSON"
    if what is not None:
        raise ValueError(
            f"{path}, line {number}, {what}: remove that line, or measure everything anew with "
            "--fresh"
        )
    return record


def _damage(record: Any, fingerprint: str) -> str | None:
    """What is wrong with a line; None: nothing, or it counts for nothing."""
    if not isinstance(record, dict):
        return "holds no object"
    if not isinstance(record.get("fingerprint"), str):
        return "has no 'fingerprint'"
    if record["fingerprint"] != fingerprint:
        return None
    for name, kind in _TYPES.items():
        if name not in record:
            return f"has no {name!r}"
        if not isinstance(record[name], kind):
            return f"has {record[name]!r} as {name!r}"
    needed = () if "failed" in record else _CONTENT.get(record["kind"], ())
    missing = [name for name in needed if name not in record]
    return f"has no {missing[0]!r}" if missing else None
