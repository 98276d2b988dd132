"""Chats as prompts: what their messages must be, and their token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def is_chat(value: Any) -> bool:
    """Whether it is a list of messages, whatever is in these."""
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and len(value) > 0
        and all(isinstance(message, Mapping) for message in value)
    )


def plain_messages(chat: Sequence[Mapping[str, Any]], name: str) -> list[dict[str, Any]]:
    """The messages as chat templates take them: text in parts, OpenAI's form, is put together.

    Raises:
        TypeError, ValueError: a message has no role or no content, or these are no text.
    """
    return [_plain(message, f"{name}, message {number}") for number, message in enumerate(chat)]


def template_ids(tokenizer: Any, messages: Sequence[Mapping[str, Any]], name: str) -> list[int]:
    """Token ids up to where the answer begins, by the checkpoint's template.

    Raises:
        ValueError: the tokenizer has no template, or the template refuses the messages.
    """
    from jinja2 import TemplateError

    try:
        # return_dict=False: transformers 5 returns a mapping by default.
        ids = tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, tokenize=True, return_dict=False
        )
    except TemplateError as error:
        raise ValueError(f"{name}: the chat template refuses it: {error}") from error
    return list(ids)


def _plain(message: Mapping[str, Any], name: str) -> dict[str, Any]:
    if "role" not in message or "content" not in message:
        raise ValueError(
            f"{name}: every message of a chat needs 'role' and 'content', got keys "
            f"{sorted(map(str, message))}"
        )
    role, content = message["role"], message["content"]
    if not isinstance(role, str):
        raise TypeError(f"{name}: role must be text, got {type(role).__name__}")
    if not isinstance(content, str):
        content = _joined(content, name)
    return {**message, "content": content}


def _joined(parts: Any, name: str) -> str:
    texts = [_text(part) for part in parts] if isinstance(parts, (list, tuple)) else [None]
    if None in texts:
        raise TypeError(
            f"{name}: content must be text, or a list of {{'type': 'text', 'text': ...}}, got "
            f"{parts!r:.80}"
        )
    return "".join(texts)


def _text(part: Any) -> str | None:
    """None: it is no piece of text."""
    if not isinstance(part, Mapping) or part.get("type") != "text":
        return None
    text = part.get("text")
    return text if isinstance(text, str) else None
