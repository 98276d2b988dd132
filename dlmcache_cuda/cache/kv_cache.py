"""The K/V cache of all layers and slots."""

from __future__ import annotations

import torch
from torch import Tensor


class KVCache:
    """Keys (after RoPE) and values of every position of every slot, by layer. Storage only.

    ``k[layer]`` and ``v[layer]`` are contiguous ``[num_slots * capacity, num_kv_heads, head_dim]``;
    row ``slot * capacity + position``. Starts as zeros: a position that is attended to before it
    was written then weighs like any other, and no stray NaN can spread from it.

    With ``shared`` all layers have the memory of one: enough for a forward whose rows are all of
    its keys, where nobody asks for a layer's keys once the layer is done.
    """

    def __init__(
        self,
        num_layers: int,
        num_slots: int,
        capacity: int,
        num_kv_heads: int,
        head_dim: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        shared: bool = False,
    ) -> None:
        shape = (1 if shared else num_layers, num_slots * capacity, num_kv_heads, head_dim)
        self.num_slots = num_slots
        self.capacity = capacity
        whole = tuple(torch.zeros(shape, dtype=dtype, device=device) for _ in range(2))
        #: Keys and values of all layers, ``[layers, rows, heads, head_dim]``; None with ``shared``.
        self.whole: tuple[Tensor, Tensor] | None = None if shared else whole
        self.k: list[Tensor] = list(whole[0])
        self.v: list[Tensor] = list(whole[1])
        if shared:
            self.k, self.v = self.k * num_layers, self.v * num_layers

    @property
    def num_layers(self) -> int:
        return len(self.k)

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes."""
        held = {tensor.data_ptr(): tensor.nbytes for tensor in (*self.k, *self.v)}
        return sum(held.values())

    @staticmethod
    def predict_bytes(
        num_layers: int,
        num_slots: int,
        capacity: int,
        num_kv_heads: int,
        head_dim: int,
        dtype: torch.dtype = torch.float32,
    ) -> int:
        """What :attr:`nbytes` would be, without allocating it."""
        row = num_kv_heads * head_dim * dtype.itemsize
        return 2 * num_layers * num_slots * capacity * row
