"""Files shipped with the package: a small trained LLaDA and the questions it answers."""

from __future__ import annotations

from pathlib import Path


def tiny_llada_path() -> Path:
    """Folder of the bundled checkpoint: config, weights and tokenizer in Hugging Face layout."""
    return Path(__file__).resolve().parent / "tiny_llada"
