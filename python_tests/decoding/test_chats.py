"""Chats as prompts: text in one piece or in parts, and what is refused."""

from __future__ import annotations

import pytest
import torch

import dlmcache_cuda
from dlmcache_cuda.decoding.prompts import tokenize_prompt

QUESTION = "(a) axe finds pear . start axe steps 1 ?"
PARTS = [{"type": "text", "text": QUESTION[:12]}, {"type": "text", "text": QUESTION[12:]}]


@pytest.fixture(scope="module")
def model():
    return dlmcache_cuda.load(device="cpu")


def chat(content, role="user"):
    return [{"role": role, "content": content}]


def test_text_in_parts_is_put_together(model):
    whole, parts = (tokenize_prompt(model, chat(content), 16) for content in (QUESTION, PARTS))
    assert torch.equal(whole, parts)


@pytest.mark.parametrize(
    "content", [None, 7, ["a"], [{"type": "image_url"}], [{"type": "text", "text": 3}], {}]
)
@pytest.mark.parametrize("several", [False, True])
def test_content_that_is_no_text_is_refused(model, content, several):
    prompts = [chat(QUESTION), chat(content)] if several else chat(content)
    name = r"prompts\[1\]" if several else "prompts"
    with pytest.raises(TypeError, match=rf"{name}, message 0: content must be text, or a list of"):
        dlmcache_cuda.decode(model, prompts, gen_length=4)


def test_content_of_a_text_to_fill(model):
    messages = [*chat(QUESTION), {"role": "assistant", "content": None}]
    with pytest.raises(TypeError, match="message 1: content must be text"):
        dlmcache_cuda.fill(model, messages)


@pytest.mark.parametrize(
    ("messages", "error", "message"),
    [
        (chat(QUESTION, role="x"), ValueError, "prompts: the chat template refuses it"),
        (chat(QUESTION, role=3), TypeError, "prompts, message 0: role must be text, got int"),
        ([{1: 2, "a": 3}], ValueError, r"needs 'role' and 'content', got keys \['1', 'a'\]"),
    ],
)
def test_messages_that_are_refused(model, messages, error, message):
    with pytest.raises(error, match=message):
        dlmcache_cuda.decode(model, messages, gen_length=4)


def test_text_that_utf8_cannot_write(model):
    with pytest.raises(ValueError, match=r"prompts\[1\] is no text that UTF-8 can write"):
        dlmcache_cuda.decode(model, ["a", "\ud800"], gen_length=4)
