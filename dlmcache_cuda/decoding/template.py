r"""Texts with holes: ``def f(x):[MASK:32]return y``.

``[MASK:n]`` is a hole of n tokens. A backslash in front, ``\[MASK:n]``, makes it text; of several
backslashes each two are one, so that ``\\[MASK:n]`` is a backslash and a hole.
"""

from __future__ import annotations

import re

_MARK = re.compile(r"(\\*)\[MASK(?=[\]:])(?::([^\]\n]*))?(\])?")
# Longer than any canvas; a number with more digits is not even read.
_MAX_DIGITS = 9


def parse_template(text: str, name: str = "text") -> list[str | int]:
    r"""The pieces of a template in order: texts, and numbers of tokens for holes.

    Neighbouring holes stay apart; empty texts are left out.

    >>> parse_template("a[MASK:2]b\\[MASK:3]")
    ['a', 2, 'b[MASK:3]']

    Raises:
        ValueError: a mark that is not a hole of at least one token.
    """
    pieces: list[str | int] = []
    literal, last = "", 0
    for found in _MARK.finditer(text):
        backslashes, size, closed = found.groups()
        literal += text[last : found.start()] + "\\" * (len(backslashes) // 2)
        last = found.end()
        mark = found[0][len(backslashes) :]
        if len(backslashes) % 2:
            literal += mark
            continue
        digits = bool(size) and size.isascii() and size.isdigit()
        if not closed or not digits or len(size) > _MAX_DIGITS or int(size) == 0:
            line = text.count("\n", 0, found.start()) + 1
            raise ValueError(
                f"{name}, line {line}: {mark!r} is no hole; write [MASK:n] for a hole of n >= 1 "
                "tokens, or \\[MASK for the text itself"
            )
        pieces += [literal] if literal else []
        pieces.append(int(size))
        literal = ""
    literal += text[last:]
    return pieces + ([literal] if literal else [])
