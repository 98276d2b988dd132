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

from dlmcache_cuda.model import Llada

FORMAT = "dlmcache_cuda calibration results"
VERSION = 1


def key_of(*parts: Any) -> str:
    """A key for anything that JSON can hold; equal parts give equal keys."""
    text = json.dumps(parts, sort_keys=True, default=list)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def model_key(model: Llada) -> str:
    """Tells models apart: by configuration, storage and some of the weights."""
    digest = hashlib.sha256()
    for tensor in (model.final_norm, model.embedding[:16], model.head[:16]):
        digest.update(tensor.float().cpu().numpy().tobytes())
    for norm in (block.weights.attn_norm for block in model.layers):
        digest.update(norm.float().cpu().numpy().tobytes())
    linear = type(model.layers[0].weights.gate_up).__name__
    digest.update(repr((model.config, str(model.dtype), linear)).encode())
    return digest.hexdigest()[:32]


class StateFile:
    """Records by key, in memory and, where a path is given, in a file.

    Raises:
        ValueError: the file exists and holds something else.
    """

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self._path = None if path is None else Path(path)
        self._records: dict[str, Any] = {}
        if self._path is None:
            return
        if self._path.exists() and self._path.stat().st_size:
            self._read(self._path)
        else:
            self._path.write_text(json.dumps({"format": FORMAT, "version": VERSION}) + "\n")

    def _read(self, path: Path) -> None:
        complete, _, rest = path.read_bytes().rpartition(b"\n")
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
                raise ValueError(f"state: {path}, line {number}, is damaged: delete that line")
            self._records[record["key"]] = record.get("value")
        if rest:
            # The line that was being written when the run was cut off.
            with path.open("r+b") as file:
                file.truncate(len(complete) + 1)

    def get(self, key: str) -> Any:
        """What was recorded under a key, or None."""
        return self._records.get(key)

    def put(self, key: str, value: Any) -> None:
        """Records a value and writes it."""
        self._records[key] = value
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, "value": value}) + "\n")


def _parsed(line: bytes) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None
