"""The models that are measured: bundled, with random weights, or any checkpoint."""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlmcache_cuda import assets

BUNDLED = "bundled"
HEAD_SIZE = 64
# LLaDA-8B's inner width is three times its width.
INNER_FACTOR = 3
DEFAULT_VOCAB = 8192
MAX_LENGTH = 16384
_RANDOM = re.compile(r"random:(\d+)x(\d+)(?::vocab=(\d+))?")


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """What a user's text stands for.

    Attributes:
        text: ``bundled``; ``random:12x512`` (layers x width, heads of 64, feed-forward three times
            as wide, a vocabulary of 8192) or ``random:12x512:vocab=32000``; else a checkpoint's
            folder or hub id.
        layers, width, vocab: of a model with random weights; 0 for others.
    """

    text: str
    layers: int = 0
    width: int = 0
    vocab: int = 0

    @property
    def is_bundled(self) -> bool:
        return self.text == BUNDLED

    @property
    def is_random(self) -> bool:
        return self.layers > 0

    @classmethod
    def parse(cls, text: str) -> ModelSpec:
        """
        Raises:
            ValueError: it begins like a random model, but is none.
        """
        if not text.startswith("random"):
            return cls(text)
        found = _RANDOM.fullmatch(text)
        numbers = found.groups(default=str(DEFAULT_VOCAB)) if found else (0, 0, 0)
        layers, width, vocab = map(int, numbers)
        if layers < 1 or width < HEAD_SIZE or width % HEAD_SIZE or vocab < 8:
            raise ValueError(
                f"model must be random:LAYERSxWIDTH with LAYERS >= 1 and WIDTH a multiple of "
                f"{HEAD_SIZE} (the size of a head), and may end with :vocab=N with N >= 8; got "
                f"{text!r}"
            )
        return cls(text, layers, width, vocab)

    def folder(self, out: Path) -> str:
        """Where the checkpoint is. One with random weights is written below ``out`` first."""
        if self.is_bundled:
            return str(assets.tiny_llada_path())
        if not self.is_random:
            return self.text
        name = f"random-{self.layers}x{self.width}-v{self.vocab}"
        return str(_written(self, out / "models" / name))

    def load(self, out: Path, device: str | None = None, dtype: str | None = None) -> Any:
        """The model. Nothing ends a text of random weights: they would end it anywhere."""
        from dlmcache_cuda.model import load

        ends = () if self.is_random else None
        path = None if self.is_bundled else self.folder(out)
        return load(path, device=device, dtype=dtype, end_token_ids=ends)


def _written(spec: ModelSpec, folder: Path) -> Path:
    if (folder / "config.json").exists():
        return folder
    from dlmcache_cuda.testing.tiny_model import random_config, random_weights, write_checkpoint

    config = random_config(
        n_layers=spec.layers,
        d_model=spec.width,
        n_heads=spec.width // HEAD_SIZE,
        n_kv_heads=spec.width // HEAD_SIZE,
        mlp_hidden_size=INNER_FACTOR * spec.width,
        vocab_size=spec.vocab,
        max_sequence_length=MAX_LENGTH,
        rope_theta=500000.0,
    )
    weights = random_weights(config, seed=0)
    # A position where the mask itself is predicted stays undecided; chance would make that work.
    weights["ff_out.weight"][config["mask_token_id"]] = 0
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Written aside: an interrupted run leaves no half of a checkpoint, and of two runs that began
    # together each writes its own.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f"{folder.name}.partial-") as aside:
        partial = write_checkpoint(Path(aside) / folder.name, config, weights, shards=1)
        try:
            partial.replace(folder)
        except OSError:
            if not (folder / "config.json").exists():
                raise
            # Another run was faster; its weights are the same.
    return folder
