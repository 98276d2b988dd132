"""Compact forms of what a page has much of: sets of positions, and long lists of small numbers.

A run of 32 layers, 1024 positions and 512 steps has 16 million flags. Most layers of most steps
compute the same rows, so equal sets are stored once, each as ranges or as a bitmap, whichever is
shorter. ``web/unpack.js`` is the other side.
"""

from __future__ import annotations

import base64
from array import array
from collections.abc import Iterable, Sequence
from sys import byteorder

Ranges = Sequence[Sequence[int]]
"""Half-open ranges ``[begin, end)``, ascending and apart."""


class RowSets:
    """Different sets of positions, numbered in the order in which they came."""

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def add(self, ranges: Ranges) -> int:
        """The number of a set."""
        return self._numbers.setdefault(pack_ranges(ranges), len(self._numbers))

    def packed(self) -> str:
        """All sets, one after the other, as base64."""
        return encode(b"".join(self._numbers))


def pack_ranges(ranges: Ranges) -> bytes:
    """A set of positions as bytes.

    The first number is twice the count of what follows, plus 1 for a bitmap. Ranges follow as the
    gap to the range before and the length; a bitmap as its first position and so many bytes, lowest
    bit first. Numbers are LEB128: seven bits a byte, low ones first, 128 added while more follow.
    """
    listed, position = bytearray(_leb128(2 * len(ranges))), 0
    for begin, end in ranges:
        listed += _leb128(begin - position) + _leb128(end - begin)
        position = end
    if not ranges:
        return bytes(listed)
    first = ranges[0][0]
    bits = sum(((1 << (end - begin)) - 1) << (begin - first) for begin, end in ranges)
    size = (bits.bit_length() + 7) // 8
    bitmap = _leb128(2 * size + 1) + _leb128(first) + bits.to_bytes(size, "little")
    return min(bytes(listed), bitmap, key=len)


def pack_numbers(values: Iterable[int]) -> dict[str, str | int]:
    """Non-negative integers as base64 of little-endian words of 1, 2 or 4 bytes each."""
    values = list(values)
    largest = max(values, default=0)
    code = "B" if largest < 2**8 else "H" if largest < 2**16 else "I"
    words = array(code, values)
    if byteorder == "big":
        words.byteswap()
    return {"bytes": words.itemsize, "data": encode(words.tobytes())}


def encode(data: bytes) -> str:
    """Bytes as base64."""
    return base64.b64encode(data).decode("ascii")


def _leb128(value: int) -> bytes:
    encoded = bytearray()
    while value >= 128:
        encoded.append(value % 128 + 128)
        value //= 128
    encoded.append(value)
    return bytes(encoded)
