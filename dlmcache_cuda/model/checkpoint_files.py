"""The safetensors files of a checkpoint folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"


class CheckpointFiles:
    """The weights of a folder by name, read when asked for; no other file format is opened.

    Raises:
        FileNotFoundError: no safetensors checkpoint in the folder, or a shard of its index missing.
        ValueError: a damaged file, or the same weight in two shards.
    """

    def __init__(self, folder: Path) -> None:
        self.source = str(folder)
        self._handles: dict[str, Any] = {}
        for path in _weight_files(folder):
            handle = _open(path)
            for name in handle.keys():  # noqa: SIM118  (a file, not a dict)
                if name in self._handles:
                    raise ValueError(f"{folder}: the weight {name} stands in two shards")
                self._handles[name] = handle

    def names(self) -> list[str]:
        return list(self._handles)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape from the file's header; no weight is read."""
        return tuple(self._handles[name].get_slice(name).get_shape())

    def read(self, name: str) -> Tensor:
        """The weight on the CPU in its stored type; backed by the file, so not to be kept."""
        return self._handles[name].get_tensor(name)


def _weight_files(folder: Path) -> list[Path]:
    if (folder / INDEX).exists():
        return _shards(folder)
    if (folder / SINGLE).exists():
        return [folder / SINGLE]
    pickled = sorted(
        path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern)
    )
    if pickled:
        raise FileNotFoundError(
            f"{folder}: only pickled weights ({pickled[0]}), which can run code when they are "
            "read; convert them to safetensors first"
        )
    others = sorted(path.name for path in folder.glob("*.safetensors"))
    found = f"; found {', '.join(others[:5])}, which nothing lists" if others else ""
    raise FileNotFoundError(f"{folder}: neither {SINGLE} nor {INDEX}{found}")


def _shards(folder: Path) -> list[Path]:
    try:
        weight_map = json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"]
        shards = sorted(set(weight_map.values()))
        plain = all(Path(shard).name == shard for shard in shards)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{folder / INDEX}: not an index of shards ({error!r})") from error
    if not plain:
        raise ValueError(f"{folder / INDEX}: shards must be files of the same folder, got {shards}")
    missing = [shard for shard in shards if not (folder / shard).exists()]
    if missing:
        raise FileNotFoundError(
            f"{folder}: missing {len(missing)} of {len(shards)} shards: {', '.join(missing[:10])}"
        )
    return [folder / shard for shard in shards]


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        hint = ""
        if path.stat().st_size < 1024 and path.read_bytes().startswith(b"version https://git-lfs"):
            hint = "; it is a Git LFS pointer, run `git lfs pull`"
        raise ValueError(f"{path}: not a readable safetensors file ({error}){hint}") from error
