"""Random seeds of sequences."""

from __future__ import annotations

import torch

_GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio: spreads consecutive indices over the range


def sequence_seed(seed: int, index: int) -> int:
    """The seed of sequence ``index`` of a call with ``seed``: distinct and in [0, 2^63)."""
    return (seed + index * _GOLDEN) % 2**63


def fresh_seed() -> int:
    """A seed from torch's default generator, so that ``torch.manual_seed`` makes runs repeat."""
    return int(torch.randint(2**62, ()).item())
