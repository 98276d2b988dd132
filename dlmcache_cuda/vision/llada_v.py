"""LLaDA-V's prompts: messages of text and images as embeddings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dlmcache_cuda.model import Llada
from dlmcache_cuda.vision.images import crops, image_rows, open_image
from dlmcache_cuda.vision.tower import VisionTower

# Stands in the text where an image goes; LLaVA's token -200.
PLACEHOLDER = "<image>"
# Of LLaDA-V's conversation "llava_llada".
SYSTEM = (
    "You are a helpful language and vision assistant. You are able to understand the visual "
    "content that the user provides, and assist the user with a variety of tasks using natural "
    "language."
)


class LladaV:
    """A LLaDA-V ready to see.

    Attributes:
        model: the language tower, for :func:`dlmcache_cuda.decode`.
        tower: the vision tower and projector.
    """

    def __init__(self, model: Llada, tower: VisionTower) -> None:
        self.model = model
        self.tower = tower

    def __repr__(self) -> str:
        return f"LladaV({self.model!r}, images of {self.tower.config.image_size} pixels)"

    def image_embeds(self, image: Any) -> Tensor:
        """``[R, D]``: the rows of one image, a PIL image or a path."""
        return self._image_rows(open_image(image, "image"))

    def prompt_embeds(self, messages: Sequence[Mapping[str, Any]], system: str = SYSTEM) -> Tensor:
        """``[P, D]``: a chat as prompt.

        Args:
            messages: ``{"role", "content"}``; a content is text, or a list of ``{"type": "text",
                "text": ...}`` and ``{"type": "image", "image": PIL image or path}``. An image
                stands where it stands; a line break comes between it and a text behind it.
            system: put in front, unless the messages begin with a system message. Default:
                LLaDA-V's own; empty: none.

        Raises:
            TypeError, ValueError, FileNotFoundError: a message is not as above, an image cannot be
                read, the text holds ``<image>``; ImportError: Pillow is missing.
        """
        chat, images = _chat(messages)
        if system and chat[0]["role"] != "system":
            chat.insert(0, {"role": "system", "content": system})
        text = self.model.tokenizer.apply_chat_template(
            chat, add_generation_prompt=True, tokenize=False
        )
        pieces = text.split(PLACEHOLDER)
        if len(pieces) != len(images) + 1:
            raise ValueError(
                f"the chat template made {len(pieces) - 1} places of {len(images)} images"
            )
        rows = [self._text_rows(pieces[0])]
        for image, piece in zip(images, pieces[1:], strict=True):
            rows += [self._image_rows(image), self._text_rows(piece)]
        return torch.cat(rows)

    def _text_rows(self, text: str) -> Tensor:
        # The template has written the special tokens.
        ids = self.model.tokenizer(text, add_special_tokens=False)["input_ids"]
        embedding = self.model.embedding
        return embedding[torch.tensor(ids, dtype=torch.int64, device=embedding.device)]

    def _image_rows(self, image: Any) -> Tensor:
        config = self.tower.config
        features = self.tower.encode(crops(image, config))
        return image_rows(features, image.size, config, self.tower.newline)


def _chat(messages: Any) -> tuple[list[dict[str, str]], list[Any]]:
    """The messages with a placeholder for every image, and the images."""
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
        raise TypeError(f"messages must be a list of messages, got {type(messages).__name__}")
    if not messages:
        raise ValueError("messages is empty; at least one message is needed")
    chat, images = [], []
    for index, message in enumerate(messages):
        name = f"messages[{index}]"
        if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
            raise ValueError(f"{name} needs 'role' and 'content', got {message!r}")
        content = _content(message["content"], name, images)
        chat.append({"role": message["role"], "content": content})
    return chat, images


def _content(content: Any, name: str, images: list[Any]) -> str:
    if isinstance(content, str):
        return _text(content, name)
    if not isinstance(content, Sequence) or isinstance(content, bytes):
        raise TypeError(f"{name}: content must be text or a list of parts, got {content!r}")
    written, behind_image = "", False
    for number, part in enumerate(content):
        where = f"{name}, part {number}"
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and "text" in part:
            written += ("\n" if behind_image else "") + _text(part["text"], where)
        elif kind == "image" and "image" in part:
            images.append(open_image(part["image"], where))
            written += PLACEHOLDER
        else:
            raise ValueError(
                f"{where} must be {{'type': 'text', 'text': ...}} or "
                f"{{'type': 'image', 'image': ...}}, got {part!r}"
            )
        behind_image = kind == "image"
    return written


def _text(text: Any, where: str) -> str:
    if not isinstance(text, str):
        raise TypeError(f"{where}: text must be a string, got {type(text).__name__}")
    if PLACEHOLDER in text:
        raise ValueError(f"{where}: text must not hold {PLACEHOLDER}; pass images as parts")
    return text
