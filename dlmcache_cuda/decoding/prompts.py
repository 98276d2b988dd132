"""From what users pass as prompts to token ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dlmcache_cuda.decoding.chat import is_chat, plain_messages, template_ids
from dlmcache_cuda.model import Llada

_ALLOWED = (
    "a string, a chat (list of {'role', 'content'} messages), a tensor of token ids, or a list of "
    "strings, chats or 1-D id tensors"
)
_ONE = "a string, a chat (list of {'role', 'content'} messages) or 1-D token ids"


def tokenize_prompts(model: Llada, prompts: Any, gen_length: int | None) -> list[Tensor]:
    """Token ids of every prompt, ``[P]`` int64 on the CPU, checked against the model.

    Strings are encoded as they are, chats through the checkpoint's chat template. Prompts may be of
    any length where ``gen_length`` is None: for callers with limits of their own.
    """
    several, items = _split(prompts)
    ids = [
        _to_ids(model, prompt, f"prompts[{index}]" if several else "prompts")
        for index, prompt in enumerate(items)
    ]
    for index, prompt_ids in enumerate(ids):
        _check_ids(model, prompt_ids, f"prompts[{index}]", gen_length)
    return ids


def tokenize_prompt(model: Llada, prompt: Any, gen_length: int) -> Tensor:
    """The same for exactly one prompt, ``[P]``: a string, a chat or token ids."""
    several, items = _split(prompt, "prompt", _ONE)
    if several:
        raise ValueError(f"prompt must be {_ONE}; got a list of {len(items)} items")
    ids = _to_ids(model, items[0], "prompt")
    _check_ids(model, ids, "prompt", gen_length)
    return ids


def _split(prompts: Any, name: str = "prompts", allowed: str = _ALLOWED) -> tuple[bool, list[Any]]:
    """Whether several prompts were given, and the list of them."""
    if isinstance(prompts, str) or is_chat(prompts):
        return False, [prompts]
    if isinstance(prompts, Tensor):
        if prompts.dim() not in (1, 2):
            raise ValueError(
                f"{name} must be a 1-D or 2-D tensor of token ids, got shape {list(prompts.shape)}"
            )
        if len(prompts) == 0:
            raise ValueError(
                f"{name} is empty (a tensor of shape {list(prompts.shape)}); it must be {allowed}"
            )
        return (False, [prompts]) if prompts.dim() == 1 else (True, list(prompts))
    if isinstance(prompts, Sequence) and not isinstance(prompts, (bytes, Mapping)):
        if not prompts:
            raise ValueError(f"{name} is empty; it must be {allowed}")
        if all(isinstance(item, int) and not isinstance(item, bool) for item in prompts):
            return False, [prompts]
        return True, list(prompts)
    raise TypeError(f"{name} must be {allowed}, got {type(prompts).__name__}")


def _to_ids(model: Llada, prompt: Any, name: str) -> Tensor:
    if isinstance(prompt, str):
        return torch.tensor(_encode(model.tokenizer, prompt, name), dtype=torch.int64)
    if is_chat(prompt):
        messages = plain_messages(prompt, name)
        return torch.tensor(template_ids(model.tokenizer, messages, name), dtype=torch.int64)
    ids = given_ids(prompt, name)
    if ids is None:
        raise TypeError(f"{name} must be text, a chat or token ids, got {type(prompt).__name__}")
    return ids


def _encode(tokenizer: Any, text: str, name: str) -> list[int]:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"{name} is no text that UTF-8 can write: {error}") from error
    return tokenizer(text)["input_ids"]


def given_ids(value: Any, name: str) -> Tensor | None:
    """``[n]`` int64 on the CPU from a 1-D tensor or a list of ids; None: it is neither."""
    if isinstance(value, Tensor):
        if value.dim() != 1:
            raise ValueError(f"{name} must be a 1-D tensor of ids, got shape {list(value.shape)}")
        if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
            raise TypeError(f"{name} must hold integer token ids, got {value.dtype}")
        if value.layout != torch.strided or value.is_meta:
            what = "a meta tensor" if value.is_meta else value.layout
            raise TypeError(f"{name} must hold token ids in memory, got {what}")
        return value.detach().to("cpu", torch.int64)
    listed = isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    if listed and all(isinstance(item, int) and not isinstance(item, bool) for item in value):
        for token in value:
            if not -(2**63) <= token < 2**63:
                raise ValueError(f"{name} holds a number of {token.bit_length()} bits: no token id")
        return torch.tensor(list(value), dtype=torch.int64)
    return None


def check_vocabulary(model: Llada, ids: Tensor, name: str) -> None:
    """Refuses no ids, and ids that the model does not have."""
    if ids.numel() == 0:
        raise ValueError(f"{name} has no tokens; at least one is needed")
    vocab = model.config.embedding_size
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= vocab:
        wrong = low if low < 0 else high
        raise ValueError(f"{name} holds token id {wrong}; ids of this model are 0 to {vocab - 1}")


def _check_ids(model: Llada, ids: Tensor, name: str, gen_length: int | None) -> None:
    check_vocabulary(model, ids, name)
    if bool((ids == model.mask_token_id).any()):
        raise ValueError(
            f"{name} holds the mask token ({model.mask_token_id}); a prompt must be given text, "
            "canvas= takes masks anywhere"
        )
    limit = model.config.max_sequence_length
    if gen_length is not None and ids.numel() + gen_length > limit:
        raise ValueError(
            f"{name} has {ids.numel()} tokens, and with gen_length={gen_length} the canvas has "
            f"{ids.numel() + gen_length}; max_sequence_length of this model is {limit}"
        )
