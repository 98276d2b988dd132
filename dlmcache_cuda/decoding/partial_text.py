"""Text of tokens whose neighbours are not known yet."""

from __future__ import annotations

import os
from dataclasses import dataclass

from torch import Tensor

from dlmcache_cuda.model import Llada

# What tokenizers put in the place of bytes that are no character, or not yet.
_REPLACEMENT = "\ufffd"


@dataclass(frozen=True, slots=True)
class TextSpan:
    """A piece of text.

    Attributes:
        text: not empty.
        committed: it is final; False: it is a draft.
    """

    text: str
    committed: bool


def stable_text(model: Llada, ids: Tensor) -> str | None:
    """The text of ``ids [n]`` that stays whatever comes behind them: a character at the end whose
    bytes are not complete is left out. None without a tokenizer."""
    text = model.decode_text(ids)
    return None if text is None else text.rstrip(_REPLACEMENT)


def spans(model: Llada, ids: Tensor, committed: Tensor) -> list[TextSpan]:
    """The text of ``ids [n]``, cut where ``committed [n]`` bool changes.

    Pieces are differences of the texts of ever longer beginnings, not texts of their own: those
    would lose spaces and split characters. A character that tokens of both kinds make up belongs to
    the later piece.
    """
    pieces: list[TextSpan] = []
    changes = (committed[1:] != committed[:-1]).nonzero().flatten() + 1
    whole = model.decode_text(ids) or ""
    begin = 0
    for stop in [*changes.tolist(), ids.numel()]:
        if stop == ids.numel():
            end = len(whole)
        else:
            end = len(os.path.commonprefix([whole, stable_text(model, ids[:stop]) or ""]))
        if end > begin:
            pieces.append(TextSpan(whole[begin:end], bool(committed[stop - 1])))
            begin = end
    return pieces
