"""From text to ids and back, for several threads."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from dlmcache_cuda.decoding.prompts import tokenize_prompts
from dlmcache_cuda.model import Llada
from dlmcache_cuda.serving.errors import ApiError, bad_request


class TextCodec:
    """The tokenizer of a model, one caller at a time.

    transformers' fast tokenizers change their own state when they encode, and then refuse a caller
    that comes in between.

    Raises:
        FileNotFoundError: the checkpoint has no tokenizer, so that there is no text to serve.
    """

    def __init__(self, model: Llada) -> None:
        try:
            self._tokenizer = model.tokenizer
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"a server needs a checkpoint with a tokenizer; {model.path} has none"
            ) from error
        self._model = model
        self.lock = threading.Lock()

    def encode(self, prompts: Any, param: str) -> list[Tensor]:
        """Ids of every prompt, of any length, see :func:`dlmcache_cuda.decode`.

        Raises:
            ApiError: 400, names ``param``.
        """
        try:
            with self.lock:
                return tokenize_prompts(self._model, prompts, None)
        except (ValueError, TypeError) as error:
            raise bad_request(_about(str(error), param), param) from error

    def encode_chat(self, messages: list[dict[str, str]]) -> list[Tensor]:
        """Ids of a conversation through the checkpoint's chat template."""
        if not self._tokenizer.chat_template:
            raise bad_request(
                f"the checkpoint {self._model.name} has no chat template; use /v1/completions with "
                "a prompt in the form that the model was trained on",
                "messages",
                code="no_chat_template",
            )
        try:
            return self.encode(messages, "messages")
        except ApiError:
            raise
        except Exception as error:  # templates run code of their own and raise what they like
            raise bad_request(
                f"messages do not fit the checkpoint's chat template: {error}", "messages"
            ) from error

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids without special tokens."""
        with self.lock:
            return self._model.decode_text(ids)


def _about(message: str, param: str) -> str:
    """Messages of ``decode`` call the field by the name it has there."""
    return message.replace("prompts", param, 1) if message.startswith("prompts") else message
