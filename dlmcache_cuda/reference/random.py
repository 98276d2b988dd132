"""Plain torch twin of :mod:`dlmcache_cuda.ops.random`, and of the noise in ``head_reduce``.

Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) on int64
tensors that hold 32-bit words.
"""

from __future__ import annotations

import torch
from torch import Tensor

WORD = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
GUMBEL_STREAM = 0


def _multiply(a: Tensor, b: int) -> tuple[Tensor, Tensor]:
    """High and low word of the 64-bit product, in halves: int64 has no unsigned product."""
    low_part = a * (b & 0xFFFF)
    high_part = a * (b >> 16) + (low_part >> 16)
    return high_part >> 16, ((high_part & 0xFFFF) << 16) | (low_part & 0xFFFF)


def philox(counter: Tensor, key: Tensor) -> Tensor:
    """Philox4x32-10 of 32-bit words: ``counter [..., 4]``, ``key [..., 2]`` -> ``[..., 4]``."""
    c0, c1, c2, c3 = (word & WORD for word in counter.long().unbind(-1))
    k0, k1 = (word & WORD for word in key.long().unbind(-1))
    for _ in range(10):
        high0, low0 = _multiply(c0, MULTIPLIERS[0])
        high1, low1 = _multiply(c2, MULTIPLIERS[1])
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + WEYL[0]) & WORD, (k1 + WEYL[1]) & WORD
    return torch.stack((c0, c1, c2, c3), dim=-1)


def draw(seed: Tensor, tick: Tensor, position: Tensor, stream: int, index: Tensor) -> Tensor:
    """Four words for each of the broadcast (int64) arguments: ``[...]`` -> ``[..., 4]``."""
    seed, tick, position, index = torch.broadcast_tensors(seed, tick, position, index)
    counter = torch.stack((index, position, tick, torch.full_like(index, stream)), dim=-1)
    return philox(counter, torch.stack((seed, seed >> 32), dim=-1))


def uniform(seed: Tensor, tick: Tensor, position: Tensor, stream: int) -> Tensor:
    """One fp32 number in (0, 1) for each (seed, tick, position); see ``uniform_rows``."""
    word = draw(seed, tick, position, stream, torch.zeros_like(position))[..., 0]
    return ((word.double() + 0.5) * 2.0**-32).float().clamp(max=1.0 - 2.0**-24)


def gumbel_noise(seed: Tensor, step: Tensor, position: Tensor, vocab_size: int) -> Tensor:
    """Float64 Gumbel noise ``[R, vocab_size]`` for ``seed``, ``step`` and ``position`` ``[R]``.

    Id ``v`` takes lane ``v % 4`` of the draw with index ``v // 4``; a word ``x`` becomes
    ``u = (x + 0.5) / 2^32`` and ``-ln(-ln u)``.
    """
    index = torch.arange((vocab_size + 3) // 4, device=position.device)
    words = draw(seed[:, None], step[:, None], position[:, None], GUMBEL_STREAM, index)
    words = words.reshape(position.shape[0], -1)[:, :vocab_size]
    tail = (WORD - words).double().add(0.5).mul(2.0**-32)  # 1 - u, exact
    return -torch.log(-torch.log1p(-tail))


def uniform_rows(
    row_index: Tensor, capacity: int, seeds: Tensor, ticks: Tensor, stream: int
) -> Tensor:
    """See :func:`dlmcache_cuda.ops.uniform_rows`."""
    if row_index.numel() == 0:
        return row_index.new_empty((0,), dtype=torch.float32)
    used = row_index.clamp(min=0)
    if seeds.numel() == 0:  # then every row is unused
        return torch.zeros_like(used, dtype=torch.float32)
    slot = used // capacity
    numbers = uniform(seeds[slot], ticks[slot], used % capacity, stream)
    return torch.where(row_index >= 0, numbers, torch.zeros_like(numbers))
