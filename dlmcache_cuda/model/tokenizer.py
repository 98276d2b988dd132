"""The tokenizer of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")


def load_tokenizer(folder: Path) -> Any:
    """The transformers tokenizer in ``folder``; no remote code, no network.

    Raises:
        FileNotFoundError: the folder has no tokenizer files.
    """
    if not any((folder / name).exists() for name in _FILES):
        raise FileNotFoundError(
            f"{folder}: no tokenizer (none of {', '.join(_FILES)}); pass prompts as token ids"
        )
    # transformers takes seconds to import; who decodes ids never pays for it.
    from transformers import AutoTokenizer, PreTrainedConfig

    # A config of no type: transformers warns about the unknown model type of ours.
    return AutoTokenizer.from_pretrained(
        folder, config=PreTrainedConfig(), trust_remote_code=False, local_files_only=True
    )
