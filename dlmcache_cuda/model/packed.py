"""Matrices of a block in the order in which the processor's GEMM reads them.

oneDNN, which torch brings, computes products with few rows up to twice as fast when the weights
need not be rearranged at every call, and gives every row of ``x`` the same bits however many rows
there are.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable

import torch
from torch import Tensor

from dlmcache_cuda import ops
from dlmcache_cuda.model.linear import Linear, Part, PlainLinear, bias_part, bias_with_zeros

#: Of fp32 and bf16 matrices; float16 needs processors that few have.
PACKED_DTYPES = (torch.float32, torch.bfloat16)

# Smaller matrices cost more to hand over to oneDNN than it saves.
_PACKED_FROM = 2**18

# Up to how many rows, and to a multiple of what their number is rounded up then. oneDNN prepares
# a product anew for every number of rows, about a millisecond and 0.57 MiB each whatever the size,
# and keeps a thousand; where there are more rows than these a copy of them would be large.
_ROUNDING = ((8, 1), (64, 4), (128, 8), (256, 16), (512, 32), (1024, 64))


@functools.cache
def packs(device_type: str, dtype: torch.dtype) -> bool:
    """Whether matrices can be packed: on CPUs for which torch has oneDNN."""
    if (
        device_type != "cpu"
        or dtype not in PACKED_DTYPES
        or not torch.backends.mkldnn.is_available()
    ):
        return False
    try:
        packed = PackedLinear(torch.eye(16, dtype=dtype))
        x = torch.ones((3, 16), dtype=dtype)
        return torch.equal(packed(x), x) and torch.equal(packed.rows(), torch.eye(16, dtype=dtype))
    except (AttributeError, RuntimeError):  # another torch, or a processor without the dtype
        return False


def pack_linear(weight: Tensor, bias: Tensor | None = None) -> Linear:
    """The fastest way to store ``weight [N, K]``, and ``bias [N]``, where they are."""
    worthwhile = weight.numel() >= _PACKED_FROM and packs(weight.device.type, weight.dtype)
    return PackedLinear(weight, bias) if worthwhile else PlainLinear(weight, bias)


class PackedLinear:
    """``W`` packed for oneDNN; nothing else is kept of it.

    Packed rows cannot be sliced. Where a call asks for rows ``[first, last)`` the matrix is cut
    there, once, and calls for more than one part put these together.

    Args:
        weight: ``[N, K]``, fp32 or bf16, on a CPU for which :func:`packs` holds.
        bias: ``[N]`` in the same dtype.
        cuts: rows at which it is cut already, ascending.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None = None, cuts: tuple[int, ...] = ()
    ) -> None:
        self.bias = bias
        self._shape = tuple(weight.shape)
        self._itemsize = weight.itemsize
        # One attribute, so that threads see all parts before a cut or all behind it.
        self.stored = _cut(weight, bias, (0, *cuts, len(weight)))

    def __len__(self) -> int:
        return self._shape[0]

    def __call__(self, x: Tensor, first: int = 0, last: int | None = None) -> Tensor:
        parts = self._between(first, len(self) if last is None else last)
        num_rows = len(x)
        if num_rows == 0 or not parts:
            width = sum(len(part.weight) for part in parts)
            return x.new_empty((num_rows, width))
        x = with_unused(x)
        outs = [_product(x, part)[:num_rows] for part in parts]
        return outs[0] if len(outs) == 1 else torch.cat(outs, dim=1)

    def parts(self, x: Tensor, first: int, middle: int, last: int) -> tuple[Tensor, Tensor]:
        # Two products, since one would be put together from the two.
        return self(x, first, middle), self(x, middle, last)

    def rows(self, first: int = 0, last: int | None = None) -> Tensor:
        last = len(self) if last is None else last
        dense = [
            part.weight.to_dense()[max(first - part.first, 0) : last - part.first]
            for part in self.stored
            if part.first < last and first < part.first + len(part.weight)
        ]
        return torch.cat(dense) if dense else self.stored[0].weight.to_dense()[:0]

    def with_rows(self, keep: int, more: Tensor) -> PackedLinear:
        bias = bias_with_zeros(self.bias, keep, len(more))
        cuts = [part.first for part in self.stored if 0 < part.first < keep]
        cuts += [keep] if keep > 0 and len(more) else []
        return PackedLinear(torch.cat((self.rows(0, keep), more)), bias, tuple(cuts))

    @property
    def nbytes(self) -> int:
        held = self._shape[0] * self._shape[1] * self._itemsize
        return held + (0 if self.bias is None else self.bias.nbytes)

    @property
    def edges(self) -> frozenset[int]:
        """The rows at which a part begins or ends."""
        return self._edges(self.stored)

    def cut(self, edges: Iterable[int]) -> tuple[Part, ...]:
        """Its parts, cut at these rows too."""
        parts = self.stored
        known = self._edges(parts)
        if not known.issuperset(edges):
            self.stored = parts = _cut(self.rows(), self.bias, tuple(sorted(known.union(edges))))
        return parts

    def _edges(self, parts: tuple[Part, ...]) -> frozenset[int]:
        return frozenset(part.first for part in parts) | {len(self)}

    def _between(self, first: int, last: int) -> list[Part]:
        parts = self.cut((first, last)) if first < last else ()
        return [p for p in parts if first <= p.first and p.first + len(p.weight) <= last]


def _product(x: Tensor, part: Part) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, part.weight, part.bias, "none", [], "")


def _cut(weight: Tensor, bias: Tensor | None, edges: tuple[int, ...]) -> tuple[Part, ...]:
    spans = zip(edges, edges[1:], strict=False)
    return tuple(
        Part(first, _packed(weight[first:last]), bias_part(bias, first, last))
        for first, last in spans
        if first < last
    )


def _packed(weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)


def with_unused(x: Tensor) -> Tensor:
    """``x [R, K]``, and rows of zeros up to a number that products are made of."""
    num_rows = len(x)
    rounded = rounded_rows(num_rows)
    if rounded == num_rows:
        return x
    return ops.gather_rows(x.contiguous(), _rows_and_unused(num_rows, rounded))


def rounded_rows(num_rows: int) -> int:
    """How many rows a product is made of for so many."""
    step = next((step for most, step in _ROUNDING if num_rows <= most), 1)
    return (num_rows + step - 1) // step * step


@functools.lru_cache(maxsize=64)
def _rows_and_unused(num_rows: int, rounded: int) -> Tensor:
    """The rows in their order, and unused ones: rows of zeros, in one copy."""
    row_index = torch.full((rounded,), -1, dtype=torch.int64)
    row_index[:num_rows] = torch.arange(num_rows)
    return row_index
