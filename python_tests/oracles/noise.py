"""The decoder's noise: Philox4x32-10 (Salmon et al., SC 2011) in Python's and numpy's integers.

key = the two halves of the sequence's seed; counter = (c0, position in the canvas, step, stream).
"""

from __future__ import annotations

import numpy as np

GUMBEL_STREAM = 0
RANDOM_REMASKING_STREAM = 1
RANDOM_ORDER_STREAM = 2  # its tick is the number of the block


def philox(counter: list[np.ndarray], key: tuple[int, int]) -> list[np.ndarray]:
    """Ten rounds on four arrays of 32-bit words held in uint64."""
    low = np.uint64(0xFFFFFFFF)
    half = np.uint64(32)
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        product0 = c0 * np.uint64(0xD2511F53)
        product1 = c2 * np.uint64(0xCD9E8D57)
        c0, c1, c2, c3 = (
            (product1 >> half) ^ c1 ^ np.uint64(k0),
            product1 & low,
            (product0 >> half) ^ c3 ^ np.uint64(k1),
            product0 & low,
        )
        k0 = (k0 + 0x9E3779B9) & 0xFFFFFFFF
        k1 = (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return [c0, c1, c2, c3]


def words(seed: int, c0: np.ndarray, position: int, tick: int, stream: int) -> list[np.ndarray]:
    constant = [np.full_like(c0, value) for value in (position, tick & 0xFFFFFFFF, stream)]
    return philox([c0, *constant], (seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF))


def gumbel(seed: int, step: int, position: int, vocab: int) -> np.ndarray:
    """Standard Gumbel noise, float64 ``[vocab]``: ``-ln(-ln u)`` with ``u = (x + 1/2) / 2^32``."""
    groups = np.arange((vocab + 3) // 4, dtype=np.uint64)
    lanes = words(seed, groups, position, step, GUMBEL_STREAM)
    x = np.stack(lanes, axis=1).reshape(-1)[:vocab].astype(np.float64)
    return -np.log(-np.log((x + 0.5) / 2.0**32))


def uniform(seed: int, tick: int, position: int, stream: int) -> float:
    """The uniform number of one position, as fp32 strictly inside (0, 1)."""
    x = words(seed, np.zeros(1, dtype=np.uint64), position, tick, stream)[0][0]
    return float(min(np.float32((float(x) + 0.5) / 2.0**32), np.float32(1 - 2.0**-24)))
