"""Matrices of a block in the two ways they may be stored, and what both can do."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from dlmcache_cuda.model.fp8 import MULTIPLE, product, quantise_rows


class Part(NamedTuple):
    """Consecutive rows of a matrix, as torch's operators are given them."""

    first: int
    """The first of them."""
    weight: Tensor
    """``[n, K]``"""
    bias: Tensor | None
    """``[n]``"""


class Linear(Protocol):
    """``x W^T + bias`` with ``W [N, K]``; matrices that read the same ``x`` stand in one ``W``."""

    bias: Tensor | None
    """``[N]`` in the dtype of the activations, or None."""

    def __len__(self) -> int:
        """N."""

    def __call__(self, x: Tensor, first: int = 0, last: int | None = None) -> Tensor:
        """``x [R, K]`` by rows ``[first, last)`` of ``W`` and bias: ``[R, last - first]``."""

    def parts(self, x: Tensor, first: int, middle: int, last: int) -> tuple[Tensor, Tensor]:
        """``x [R, K]`` by rows ``[first, middle)`` and by rows ``[middle, last)``."""

    def rows(self, first: int = 0, last: int | None = None) -> Tensor:
        """Rows ``[first, last)`` of ``W`` as they are computed with, in the activations' dtype."""

    def with_rows(self, keep: int, more: Tensor) -> Linear:
        """The first ``keep`` rows, and ``more [n, K]``, without bias, below them."""

    @property
    def stored(self) -> tuple[Part, ...]:
        """All of it, from top to bottom; another tuple once it is divided in another way. Empty
        where products take more than torch's operators (fp8)."""

    @property
    def nbytes(self) -> int:
        """Memory, in bytes."""


class PlainLinear:
    """``W`` in the dtype of the activations."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.weight = weight
        self.bias = bias
        self.stored = (Part(0, weight, bias),)

    def __len__(self) -> int:
        return len(self.weight)

    def __call__(self, x: Tensor, first: int = 0, last: int | None = None) -> Tensor:
        if first == 0 and (last is None or last == len(self.weight)):
            return F.linear(x, self.weight, self.bias)
        return F.linear(x, self.weight[first:last], bias_part(self.bias, first, last))

    def parts(self, x: Tensor, first: int, middle: int, last: int) -> tuple[Tensor, Tensor]:
        return _divided(self(x, first, last), middle - first)

    def rows(self, first: int = 0, last: int | None = None) -> Tensor:
        return self.weight[first:last]

    def with_rows(self, keep: int, more: Tensor) -> PlainLinear:
        weight = torch.cat((self.weight[:keep], more))
        return PlainLinear(weight, bias_with_zeros(self.bias, keep, len(more)))

    @property
    def nbytes(self) -> int:
        return self.weight.nbytes + (0 if self.bias is None else self.bias.nbytes)


class Fp8Linear:
    """``W`` as float8_e4m3fn with one scale per row; activations are quantised when they come.

    Args:
        values, scales: ``[N, K]`` and ``[N, 1]`` from :func:`.fp8.quantise_rows`.
            On CUDA K, and where a slice of rows begins, must be multiples of 16.
        dtype: of the activations.
        bias: ``[N]`` in ``dtype``.
    """

    def __init__(
        self, values: Tensor, scales: Tensor, dtype: torch.dtype, bias: Tensor | None = None
    ) -> None:
        self.bias = bias
        self.stored = ()
        self.dtype = dtype
        self._num_rows = len(values)
        # Rows of zeros at the end, so that a last slice of any length can be multiplied.
        missing = -len(values) % MULTIPLE
        self._values = torch.cat((values, values.new_zeros((missing, values.shape[1]))))
        self._scales = torch.cat((scales, scales.new_ones((missing, 1))))

    @classmethod
    def quantise(cls, weight: Tensor, bias: Tensor | None = None) -> Fp8Linear:
        """Of ``weight [N, K]`` in the dtype of the activations."""
        return cls(*quantise_rows(weight), weight.dtype, bias)

    def __len__(self) -> int:
        return self._num_rows

    def __call__(self, x: Tensor, first: int = 0, last: int | None = None) -> Tensor:
        wanted = (self._num_rows if last is None else last) - first
        part = slice(first, first + wanted + -wanted % MULTIPLE)
        out = product(*quantise_rows(x), self._values[part], self._scales[part], x.dtype)
        bias = bias_part(self.bias, first, first + wanted)
        return out[:, :wanted] if bias is None else out[:, :wanted] + bias

    def parts(self, x: Tensor, first: int, middle: int, last: int) -> tuple[Tensor, Tensor]:
        return _divided(self(x, first, last), middle - first)

    def rows(self, first: int = 0, last: int | None = None) -> Tensor:
        part = slice(first, self._num_rows if last is None else last)
        return (self._values[part].float() * self._scales[part]).to(self.dtype)

    def with_rows(self, keep: int, more: Tensor) -> Fp8Linear:
        values, scales = quantise_rows(more)
        return Fp8Linear(
            torch.cat((self._values[:keep], values)),
            torch.cat((self._scales[:keep], scales)),
            self.dtype,
            bias_with_zeros(self.bias, keep, len(more)),
        )

    @property
    def nbytes(self) -> int:
        held = self._values.nbytes + self._scales.nbytes
        return held + (0 if self.bias is None else self.bias.nbytes)


def _divided(out: Tensor, column: int) -> tuple[Tensor, Tensor]:
    """One product cut in two."""
    return out[:, :column], out[:, column:]


def bias_part(bias: Tensor | None, first: int, last: int | None) -> Tensor | None:
    """The bias of rows ``[first, last)``."""
    return None if bias is None else bias[first:last]


def bias_with_zeros(bias: Tensor | None, keep: int, more: int) -> Tensor | None:
    """The first ``keep`` numbers, and zeros for ``more`` rows without bias."""
    return None if bias is None else torch.cat((bias[:keep], bias.new_zeros(more)))
