"""Cosines and sines of the rotary embedding."""

from __future__ import annotations

import threading

import torch
from torch import Tensor

_ROUND_UP = 256  # tables grow in steps, so that canvases of similar lengths share one


def inverse_frequencies(head_dim: int, theta: float) -> Tensor:
    """``[head_dim / 2]`` fp32: ``theta^(-2 i / head_dim)``, in the rounding order of stock Llama.

    Raises:
        ValueError: a frequency is not finite, or they do not decrease.
    """
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    frequencies = 1.0 / (theta**exponents)
    decreasing = bool((frequencies[1:] < frequencies[:-1]).all())
    if not (bool(frequencies.isfinite().all()) and bool((frequencies > 0).all()) and decreasing):
        raise ValueError(
            f"rope_theta {theta} gives rotary frequencies that are not finite and decreasing: "
            f"{frequencies[:4].tolist()} ..."
        )
    return frequencies


class RopeTable:
    """The table that ``rope_scatter_kv_`` reads, computed once and grown on demand.

    Threads may share it: a table is never written after it was published.
    """

    def __init__(self, head_dim: int, theta: float, device: torch.device | str) -> None:
        self._frequencies = inverse_frequencies(head_dim, theta)
        self._device = device
        self._lock = threading.Lock()
        self._table = torch.empty((0, head_dim), dtype=torch.float32, device=device)
        self._rows: dict[int, Tensor] = {}  # of this table, by capacity

    def rows(self, capacity: int) -> Tensor:
        """``[capacity, head_dim]`` fp32: cosines of the positions, then sines."""
        rows = self._rows.get(capacity)
        if rows is None:
            with self._lock:
                if self._table.shape[0] < capacity:
                    self._table = self._compute(-(-capacity // _ROUND_UP) * _ROUND_UP)
                    # Smaller tables live as long as somebody uses them, and no longer.
                    self._rows = {}
                rows = self._rows[capacity] = self._table[:capacity]
        return rows

    def _compute(self, capacity: int) -> Tensor:
        # On the CPU whatever the device is, so that all devices turn by the same angles.
        positions = torch.arange(capacity, dtype=torch.float32)
        angles = positions[:, None] * self._frequencies
        return torch.cat((angles.cos(), angles.sin()), dim=1).to(self._device)
