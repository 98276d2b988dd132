"""Which files a workload is made of, so that changed ones are measured anew."""

from __future__ import annotations

import hashlib
from pathlib import Path

from dlmcache_cuda.benchmark.models import ModelSpec
from dlmcache_cuda.benchmark.prompts import is_file

# What loading a checkpoint and its tokenizer may read.
_OF_CHECKPOINTS = (".safetensors", ".json", ".jinja", ".model", ".txt")


def digest_of_files(model: ModelSpec, prompts: str) -> str | None:
    """Of the prompts' file and the checkpoint's folder; None where a workload has neither.

    The first counts by its content. A checkpoint may have many gigabytes: its files count by name,
    size and time of the last change. A hub id has no folder here and counts by its name alone.

    Raises:
        OSError: the prompts' file cannot be read.
    """
    digest = hashlib.sha256()
    found = False
    if is_file(prompts):
        digest.update(Path(prompts).read_bytes())
        found = True
    folder = Path(model.text)
    if not model.is_bundled and not model.is_random and folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.suffix in _OF_CHECKPOINTS and path.is_file():
                state = path.stat()
                digest.update(f"\0{path.name} {state.st_size} {state.st_mtime_ns}".encode())
        found = True
    return digest.hexdigest()[:16] if found else None
