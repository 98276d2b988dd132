"""Singular directions of a model's value weights on disk, so that each model pays for them once.

One safetensors file per model, named after a hash of the weights, in ``$DLMCACHE_CACHE_DIR`` or
``dlmcache_cuda`` in the user's folder for caches. A file that is not exactly what was written is
reported and computed anew; a folder that cannot be written to costs a warning.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

FORMAT = "dlmcache_cuda singular directions"
VERSION = "1"


class Directions(NamedTuple):
    """The largest singular values of every layer, descending, and their right singular vectors."""

    values: Tensor
    """``[L, r]`` fp32"""
    vectors: Tensor
    """``[L, r, W]`` fp32"""

    @property
    def rank(self) -> int:
        return self.values.shape[1]


class _Unusable(Exception):
    """A file exists but must be computed anew; the text says why."""


def cache_folder() -> Path:
    """Where files go: ``$DLMCACHE_CACHE_DIR``, else ``dlmcache_cuda`` in the folder for caches."""
    folder = os.environ.get("DLMCACHE_CACHE_DIR")
    if folder:
        return Path(folder).expanduser()
    caches = os.environ.get("XDG_CACHE_HOME", "")
    # A relative path is to be ignored, says the XDG base directory specification.
    return (Path(caches) if os.path.isabs(caches) else Path.home() / ".cache") / "dlmcache_cuda"


def direction_path(key: str) -> Path:
    """The file of the model whose weights have this hash."""
    return cache_folder() / f"singular-{key}.safetensors"


def read_directions(key: str, shape: tuple[int, int, int]) -> Directions | None:
    """What is stored for a model; None, with a warning, if a file is there that cannot be used.

    Args:
        key: hash of the weights.
        shape: layers, directions that are needed (there may be more), width.
    """
    try:
        path = direction_path(key)
        if not path.exists():
            return None
        return _read(path, key, shape)
    except (_Unusable, OSError, RuntimeError, SafetensorError) as error:
        _warn(f"the singular directions in {_name(key)} are computed anew: {error}")
        return None


def write_directions(key: str, directions: Directions) -> None:
    """Stores a model's directions; other processes see the whole file or none."""
    temporary = None
    try:
        path = direction_path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=".singular-", dir=path.parent)
        os.close(handle)
        tensors = {name: tensor.contiguous() for name, tensor in directions._asdict().items()}
        metadata = {
            "format": FORMAT,
            "version": VERSION,
            "weights": key,
            "checksum": _checksum(directions),
        }
        save_file(tensors, temporary, metadata=metadata)
        os.replace(temporary, path)
    except (OSError, RuntimeError, SafetensorError) as error:
        _warn(
            f"the singular directions could not be stored in {_name(key)} and will be computed "
            f"again by the next process: {error}; DLMCACHE_CACHE_DIR names another folder"
        )
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The bytes of a tensor, row after row."""
    return memoryview(tensor.detach().cpu().contiguous().view(torch.uint8).numpy()).cast("B")


def _read(path: Path, key: str, shape: tuple[int, int, int]) -> Directions:
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        if metadata.get("format") != FORMAT:
            raise _Unusable("it holds something else")
        if metadata.get("version") != VERSION:
            raise _Unusable(
                f"it has version {metadata.get('version')!r} of the format, not {VERSION!r}"
            )
        if metadata.get("weights") != key:
            raise _Unusable("it belongs to other weights")
        directions = Directions(file.get_tensor("values"), file.get_tensor("vectors"))
    layers, needed, width = shape
    shapes = [tuple(tensor.shape) for tensor in directions]
    rank = shapes[0][-1] if shapes[0] else 0
    if shapes != [(layers, rank), (layers, rank, width)]:
        raise _Unusable(f"its tensors have the shapes {shapes[0]} and {shapes[1]}")
    if rank < needed:
        raise _Unusable(f"it holds {rank} directions, {needed} are needed")
    if any(tensor.dtype != torch.float32 for tensor in directions):
        raise _Unusable("its tensors are not float32")
    if metadata.get("checksum") != _checksum(directions):
        raise _Unusable("its checksum does not match")
    if not all(bool(tensor.isfinite().all()) for tensor in directions):
        raise _Unusable("it holds NaN or infinity")
    return directions


def _checksum(directions: Directions) -> str:
    digest = hashlib.sha256()
    for tensor in directions:
        digest.update(tensor_bytes(tensor))
    return digest.hexdigest()


def _name(key: str) -> str:
    """The file's path for messages; not even the folder may be known."""
    try:
        return str(direction_path(key))
    except RuntimeError:
        return "the folder for caches"


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=4)
