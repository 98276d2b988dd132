"""The model's head: from what the last norm gives to tokens and confidences."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dlmcache_cuda import ops
from dlmcache_cuda.model.linear import Linear, PlainLinear
from dlmcache_cuda.model.packed import pack_linear

#: Logits of packed products at a time, 32 MiB of fp32: oneDNN computes whole rows.
PACKED_LOGITS = 1 << 23


class Head:
    """The matrix of the head and, on processors where that pays, the same packed.

    Both are kept: tied embeddings are looked up in the one, and so are single tokens.

    Args:
        weight: ``[V, W]``.
    """

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight
        packed = pack_linear(weight)
        self._packed: Linear | None = None if isinstance(packed, PlainLinear) else packed

    @property
    def rows_at_once(self) -> int | None:
        """How many rows have all of their logits in memory at a time; None: none."""
        return None if self._packed is None else max(1, PACKED_LOGITS // len(self.weight))

    @property
    def packed_nbytes(self) -> int:
        """Memory beside ``weight``, in bytes."""
        return 0 if self._packed is None else self._packed.nbytes

    def logits(self, normed: Tensor) -> Tensor:
        """``[Q, V]`` of what the last norm gives, ``[Q, W]``."""
        return F.linear(normed, self.weight) if self._packed is None else self._packed(normed)

    def reduce(
        self, normed: Tensor, *, row_index: Tensor | None, **settings: Any
    ) -> tuple[Tensor, ...]:
        """:func:`dlmcache_cuda.ops.head_reduce` with these settings."""
        most = self.rows_at_once
        if most is None:
            return ops.head_reduce(normed, self.weight, row_index=row_index, **settings)
        tiles = []
        for first in range(0, max(1, len(normed)), most):
            part = slice(first, first + most)
            places = None if row_index is None else row_index[part]
            tiles.append(
                ops.logits_reduce(self._packed(normed[part]), row_index=places, **settings)
            )
        if len(tiles) == 1:
            return tiles[0]
        return tuple(torch.cat(parts) for parts in zip(*tiles, strict=True))
