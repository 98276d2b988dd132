"""The tokenizer of a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dlmcache_cuda.model.json_file import read_object

_CONFIG = "tokenizer_config.json"
_FILES = ("tokenizer.json", _CONFIG, "tokenizer.model")


def load_tokenizer(folder: Path) -> Any:
    """The transformers tokenizer in ``folder``; no remote code, no network.

    Dream's own class, ``DreamTokenizer``, is Qwen2's under another name: the same files
    (``vocab.json``, ``merges.txt``) are read by transformers' ``Qwen2Tokenizer``.

    Raises:
        FileNotFoundError: the folder has no tokenizer files.
        ValueError: a file is damaged, or a special token of Dream would get another id than the
            published one.
    """
    if not any((folder / name).exists() for name in _FILES):
        raise FileNotFoundError(
            f"{folder}: no tokenizer (none of {', '.join(_FILES)}); pass prompts as token ids"
        )
    # transformers takes seconds to import; who decodes ids never pays for it.
    from transformers import AutoTokenizer, PreTrainedConfig, Qwen2Tokenizer

    settings = _settings(folder)
    is_dream = settings.get("tokenizer_class") == "DreamTokenizer"
    try:
        if is_dream:
            tokenizer = Qwen2Tokenizer.from_pretrained(folder, local_files_only=True)
        else:
            # A config of no type: transformers warns about the unknown model type of ours.
            tokenizer = AutoTokenizer.from_pretrained(
                folder, config=PreTrainedConfig(), trust_remote_code=False, local_files_only=True
            )
    except Exception as error:  # whatever a damaged file leads to
        raise ValueError(
            f"{folder}: transformers cannot read the tokenizer: {type(error).__name__}: {error}"
        ) from error
    if is_dream:
        _check_special_ids(folder, tokenizer, settings)
    return tokenizer


def _settings(folder: Path) -> dict[str, Any]:
    path = folder / _CONFIG
    return read_object(path) if path.exists() else {}


def _check_special_ids(folder: Path, tokenizer: Any, settings: dict[str, Any]) -> None:
    # Tokens are numbered on from the end of the vocabulary, whatever ids the file lists.
    for listed, token in settings.get("added_tokens_decoder", {}).items():
        given = tokenizer.convert_tokens_to_ids(token["content"])
        if given != int(listed):
            raise ValueError(
                f"{folder}: the tokenizer gives {token['content']} the id {given}, its "
                f"{_CONFIG} says {listed}"
            )
