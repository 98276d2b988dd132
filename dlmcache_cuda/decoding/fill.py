"""fill(): the holes of a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dlmcache_cuda.decoding.api import decode
from dlmcache_cuda.decoding.arguments import check_model
from dlmcache_cuda.decoding.canvases import check_canvas
from dlmcache_cuda.decoding.chat import is_chat, plain_messages, template_ids
from dlmcache_cuda.decoding.output import DecodedSequence, DecodeOutput
from dlmcache_cuda.decoding.template import parse_template
from dlmcache_cuda.model import Llada

_ALLOWED = (
    "a string with holes like [MASK:32], a chat whose last message is the assistant's and has "
    "them, or a list of such"
)


@dataclass(frozen=True, slots=True)
class FillOutput:
    """What :func:`fill` produced, in the order of the texts.

    Attributes:
        text: each text with its holes filled; what was given stands there unchanged. Of a chat: its
            last message.
        holes: what was put into each hole, ``[text][hole]``: up to the first end token there.
        output: ids, steps, confidences and statistics, as of :func:`dlmcache_cuda.decode`.
    """

    text: list[str]
    holes: list[list[str]]
    output: DecodeOutput

    def to_dict(self) -> dict[str, Any]:
        """The same as plain Python values, for JSON."""
        return {"text": self.text, "holes": self.holes, **self.output.to_dict()}


def fill(model: Llada, text: str | Sequence[Any], **settings: Any) -> FillOutput:
    r"""Fills the holes of texts.

    >>> dlmcache_cuda.fill(model, "def f(x):[MASK:32]return y").text[0]

    ``[MASK:n]`` is a hole of n tokens; there may be any number of them. ``\[MASK:n]`` is the text
    itself. The text between holes is encoded piece by piece, so that no token reaches over an edge.

    Args:
        model: from :func:`dlmcache_cuda.load`, with a tokenizer.
        text: a string; or a chat (list of ``{"role", "content"}`` messages) whose last message,
            the assistant's, has the holes; or a list of strings and chats.
        settings: of :func:`dlmcache_cuda.decode`, but for ``prompts``, ``canvas`` and
            ``gen_length``, which the text decides.

    Raises:
        TypeError, ValueError: an argument is not as above, a text without holes or with more
            tokens than the model's ``max_sequence_length``, a mark that is no hole.
        FileNotFoundError: the checkpoint has no tokenizer.
    """
    check_model(model)
    for name in ("prompts", "canvas", "gen_length"):
        if name in settings:
            raise TypeError(f"fill takes no {name}: the text and its holes decide it")
    several, items = _split(text)
    templates = [
        _Template.encode(model, item, f"text[{index}]" if several else "text")
        for index, item in enumerate(items)
    ]
    output = decode(model, canvas=[template.ids for template in templates], **settings)
    filled = [
        template.filled(model, sequence)
        for template, sequence in zip(templates, output.sequences, strict=True)
    ]
    return FillOutput(["".join(parts) for parts, _ in filled], [h for _, h in filled], output)


@dataclass(frozen=True, slots=True)
class _Template:
    """One text: its canvas, and where its pieces stand there."""

    ids: Tensor
    pieces: list[str | int]
    begins: list[int]

    @classmethod
    def encode(cls, model: Llada, item: Any, name: str) -> _Template:
        tokenizer = model.tokenizer
        prefix, content = _prefix(tokenizer, item, name)
        pieces = parse_template(content, name)
        holes = [piece for piece in pieces if isinstance(piece, int)]
        if not holes:
            raise ValueError(f"{name} has no hole; write [MASK:n] where n tokens are wanted")
        limit = model.config.max_sequence_length
        if sum(holes) > limit:  # before anything of that size is made
            raise ValueError(
                f"{name} has holes of {sum(holes)} tokens; max_sequence_length of this model is "
                f"{limit}"
            )
        ids, begins = list(prefix), []
        for number, piece in enumerate(pieces):
            begins.append(len(ids))
            if isinstance(piece, int):
                ids += [model.mask_token_id] * piece
            else:
                # Only where a text begins may a tokenizer put its own tokens.
                first = number == 0 and not prefix
                encoded = tokenizer(piece, add_special_tokens=first)["input_ids"]
                if model.mask_token_id in encoded:
                    raise ValueError(
                        f"{name} holds the mask token itself; write [MASK:n] where n tokens are "
                        "wanted"
                    )
                ids += encoded
        canvas = torch.tensor(ids, dtype=torch.int64)
        check_canvas(model, canvas, name)
        return cls(canvas, pieces, begins)

    def filled(self, model: Llada, sequence: DecodedSequence) -> tuple[list[str], list[str]]:
        """The text of every piece, and of the holes alone."""
        ids = sequence.canvas_ids
        ends = torch.tensor(model.end_token_ids, dtype=torch.int64)
        texts, holes, over = [], [], False
        for piece, begin in zip(self.pieces, self.begins, strict=True):
            if isinstance(piece, str):
                texts.append(piece)
                over = False  # the text goes on, whatever the hole before it ended with
                continue
            hole = ids[begin : begin + (0 if over else piece)]
            ended = torch.isin(hole, ends)
            if bool(ended.any()):
                hole, over = hole[: int(ended.int().argmax())], True
            holes.append(model.decode_text(hole[hole != model.mask_token_id]))
            texts.append(holes[-1])
        return texts, holes


def _split(text: Any) -> tuple[bool, list[Any]]:
    if isinstance(text, str) or is_chat(text):
        return False, [text]
    if isinstance(text, Sequence) and not isinstance(text, (bytes, Mapping)):
        if not text:
            raise ValueError(f"text is empty; it must be {_ALLOWED}")
        return True, list(text)
    raise TypeError(f"text must be {_ALLOWED}, got {type(text).__name__}")


def _prefix(tokenizer: Any, item: Any, name: str) -> tuple[list[int], str]:
    """Token ids in front of the text with holes, and that text."""
    if isinstance(item, str):
        return [], item
    if not is_chat(item):
        raise TypeError(f"{name} must be a string or a chat, got {type(item).__name__}")
    item = plain_messages(item, name)
    last = item[-1]
    if last["role"] != "assistant" or len(item) < 2:
        raise ValueError(
            f"{name}: the last message of a chat has the holes and must be the assistant's, with "
            f"messages before it; got {len(item)} messages, the last one of {last['role']!r}"
        )
    return template_ids(tokenizer, item[:-1], name), last["content"]
