"""Results on disk, so that an interrupted calibration goes on where it was.

One JSON object per line, appended as results come: a run that is killed loses the line it was
writing and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

FORMAT = "dlmcache_cuda calibration results"
VERSION = 1


_HEADER = json.dumps({"format": FORMAT, "version": VERSION})


def key_of(*parts: Any) -> str:
    """A key for anything that JSON can hold; equal parts give equal keys."""
    text = json.dumps(parts, sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class StateFile:
    """Records by key, in memory and, where a path is given, in a file.

    Raises:
        ValueError: the file exists and holds something else.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self._path = None if path is None else Path(path)
        self._records: dict[str, Any] = {}
        self._lines: dict[str, int] = {}
        if self._path is None:
            return
        content = self._path.read_bytes() if self._path.exists() else b""
        # A run that was ended at its first write leaves a part of the first line.
        if _HEADER.encode().startswith(content):
            self._path.write_text(f"{_HEADER}\n")
        else:
            self._read(self._path, content)

    def _read(self, path: Path, content: bytes) -> None:
        complete, _, rest = content.rpartition(b"\n")
        lines = complete.split(b"\n")
        header = _parsed(lines[0])
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            raise ValueError(f"state: {path} exists and holds no calibration results; not touched")
        if header.get("version") != VERSION:
            raise ValueError(
                f"state: {path} has version {header.get('version')!r}; this dlmcache_cuda reads "
                f"version {VERSION}"
            )
        for number, line in enumerate(lines[1:], start=2):
            record = _parsed(line)
            if not isinstance(record, dict) or not isinstance(record.get("key"), str):
                raise _damaged(path, number)
            self._records[record["key"]] = record.get("value")
            self._lines[record["key"]] = number
        if rest:
            # The line that was being written when the run was cut off.
            with path.open("r+b") as file:
                file.truncate(len(complete) + 1)

    def get(self, key: str) -> Any:
        """What was recorded under a key, or None."""
        return self._records.get(key)

    def damaged(self, key: str) -> ValueError:
        """The error to raise where the file holds something else under a key than belongs there."""
        return _damaged(self._path, self._lines.get(key))

    def put(self, key: str, value: Any) -> None:
        """Records a value and writes it."""
        self._records[key] = value
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, "value": value}) + "\n")


def _damaged(path: Path | None, line: int | None) -> ValueError:
    return ValueError(f"state: {path}, line {line}, is damaged: delete that line")


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None
