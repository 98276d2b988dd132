"""All layers by one operator, where starting the operators of every layer would take as long as
they do."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor

from dlmcache_cuda import ops
from dlmcache_cuda.cache import KVCache, RowList
from dlmcache_cuda.model.attention import KeyLengths, takes_dense
from dlmcache_cuda.model.block import LladaBlock
from dlmcache_cuda.model.linear import Linear, Part, bias_part
from dlmcache_cuda.model.packed import PackedLinear, rounded_rows, with_unused
from dlmcache_cuda.model.read_rows import ReadRows
from dlmcache_cuda.model.weights import BlockWeights

# With more rows the arithmetic outweighs everything else, and all buffers at once would be large.
# Models with packed matrices are wider: the same buffers hold fewer rows.
_MOST_ROWS = 1024
_MOST_ROWS_PACKED = 256

# Nor are larger matrices worth it: starting a product is nothing beside computing it. Packed ones
# are read once for every product, which then takes less time than what stands around it.
_LARGEST = 2**18
_LARGEST_PACKED = 2**23


class _Tensors(NamedTuple):
    """Weights and biases as the operators take them."""

    weights: list[Tensor]
    biases: list[Tensor]
    packed: bool
    """Whether some are packed: rows then come in numbers that products are made of."""


class WholeStack:
    """:func:`dlmcache_cuda.ops.forward_layers_`, and what else takes rows through many layers, on
    the weights of a model's blocks."""

    def __init__(self, layers: Sequence[LladaBlock]) -> None:
        self._layers = layers
        # By the rows at which projections are divided. One attribute, so that threads see weights
        # and tensors that belong together.
        self._known: tuple[list[object], dict[tuple[int, ...], _Tensors | None]] = ([], {})

    def takes(self, rows: RowList, cache: KVCache, key_lengths: KeyLengths) -> bool:
        """Whether these rows may go through it: few, on a CPU, by small matrices alone, none of
        them fp8, and no rows by dense attention."""
        if rows.max_rows > _MOST_ROWS or cache.whole is None or not rows.row_index.is_cpu:
            return False
        tensors = self._tensors()
        if tensors is None or (tensors.packed and rows.max_rows > _MOST_ROWS_PACKED):
            return False
        return not takes_dense(rows, key_lengths)

    def forward(
        self,
        h: Tensor,
        rows: RowList,
        cos_sin: Tensor,
        cache: KVCache,
        key_lengths: KeyLengths,
        read: ReadRows | None = None,
    ) -> Tensor:
        """What all blocks make of the embeddings ``h [R, W]``: the residual stream behind the last
        one."""
        tensors = self._tensors()
        arguments = self._arguments(tensors, h, rows, cos_sin, cache, key_lengths)
        out = ops.forward_layers_(*arguments, **_read_arguments(read, tensors.packed))
        return _first(out, h)

    def forward_tracked(
        self,
        h: Tensor,
        rows: RowList,
        cos_sin: Tensor,
        cache: KVCache,
        key_lengths: KeyLengths,
        first_layer: int,
        read: ReadRows | None,
        **tracking: Any,
    ) -> tuple[Tensor, Tensor]:
        """From a layer on, whose inputs ``h`` are, up to the first in which a test fails; see
        :func:`dlmcache_cuda.ops.track_layers_`."""
        tensors = self._tensors(self._layers[0].num_heads * cos_sin.shape[1])
        arguments = self._arguments(tensors, h, rows, cos_sin, cache, key_lengths)
        if tensors.packed:
            tracking["tracked_index"] = _and_unused(tracking["tracked_index"])
        out, similarities = ops.track_layers_(
            *arguments, first_layer, **tracking, **_read_arguments(read, tensors.packed)
        )
        return _first(out, h), similarities

    def forward_selected(
        self,
        h: Tensor,
        rows: RowList,
        cos_sin: Tensor,
        cache: KVCache,
        key_lengths: KeyLengths,
        proxy_rank: int,
        sizes: Sequence[int],
        **selection: Any,
    ) -> Tensor:
        """The embeddings ``h`` behind all layers, which compute a part of the rows; see
        :func:`dlmcache_cuda.ops.select_layers_`."""
        heads, kv_heads = self._layers[0].num_heads, cache.k[0].shape[1]
        queries, keys = heads * cos_sin.shape[1], (heads + kv_heads) * cos_sin.shape[1]
        tensors = self._tensors(queries, keys, proxy_rank=proxy_rank)
        arguments = self._arguments(tensors, h, rows, cos_sin, cache, key_lengths)
        if tensors.packed:
            carried = len(arguments[0])
            sizes = [size if size < 0 else min(rounded_rows(size), carried) for size in sizes]
        out = ops.select_layers_(*arguments, sizes=sizes, proxy_rank=proxy_rank, **selection)
        return _first(out, h)

    def _arguments(
        self,
        tensors: _Tensors,
        h: Tensor,
        rows: RowList,
        cos_sin: Tensor,
        cache: KVCache,
        key_lengths: KeyLengths,
    ) -> tuple[Any, ...]:
        block, row_index = self._layers[0], rows.row_index
        if tensors.packed:
            h, row_index = with_unused(h), _and_unused(row_index)
        return (
            h, tensors.weights, tensors.biases, cos_sin, row_index, rows.cu_rows,
            key_lengths.device, block.num_heads, block.eps, *cache.whole,
        )  # fmt: skip

    def _tensors(self, *cuts: int, proxy_rank: int = 0) -> _Tensors | None:
        """None where a matrix is of another kind or not small.

        Args:
            cuts: rows of the stacked projections at which products begin or end.
            proxy_rank: rows of the proxy that stand below them.
        """
        wanted = (*cuts, self._layers[0].weights.qkv_rows + proxy_rank)
        stored, tensors = self._known
        if not _same(stored, self._stored()):
            tensors = {}
        if wanted not in tensors:
            edges, uncut = _uncut([layer.weights.qkv for layer in self._layers], wanted)
            if uncut:
                # Nothing else may hold what is divided; see forget().
                del stored
                tensors = {}
                self.forget()
            for matrix in uncut:
                matrix.cut(edges)
            stored = self._stored()
            tensors = {**tensors, wanted: _tensors(stored, wanted[-1])}
            self._known = stored, tensors
        return tensors[wanted]

    def forget(self) -> None:
        """Holds no weights until it is called again: before those of all layers are replaced, so
        that not all of the old ones are in memory beside the new ones."""
        self._known = [], {}

    def _stored(self) -> list[Any]:
        """Weights of every layer, then as what projections are stored: others once a proxy was put
        below them or they were divided."""
        weights = [layer.weights for layer in self._layers]
        return [*weights, *(block.qkv.stored for block in weights)]


def _same(some: Sequence[object], others: Sequence[object]) -> bool:
    return len(some) == len(others) and all(map(operator.is_, some, others))


def _uncut(
    projections: Sequence[Linear], rows: Iterable[int]
) -> tuple[frozenset[int], list[PackedLinear]]:
    """Where packed ones are to be divided for products to begin and end at these rows, all of them
    alike, and those that are not yet."""
    packed = [matrix for matrix in projections if isinstance(matrix, PackedLinear)]
    edges = frozenset(rows).union(*(matrix.edges for matrix in packed))
    return edges, [matrix for matrix in packed if not matrix.edges.issuperset(edges)]


def _tensors(of: Sequence[Any], rows: int) -> _Tensors | None:
    """Of what stores the weights, with the first ``rows`` rows of the stacked projections."""
    blocks: Sequence[BlockWeights] = of[: len(of) // 2]
    projections: Sequence[tuple[Part, ...]] = of[len(of) // 2 :]
    weights, biases, matrices = [], [], []
    for block, stored in zip(blocks, projections, strict=True):
        others = [matrix.stored for matrix in (block.attn_out, block.gate_up, block.ff_out)]
        if not stored or any(len(parts) != 1 or parts[0].bias is not None for parts in others):
            return None
        parts = [_first_rows(part, rows - part.first) for part in stored if part.first < rows]
        qkv = [part.weight for part in parts]
        attn_out, gate_up, ff_out = (parts[0].weight for parts in others)
        matrices += [*qkv, attn_out, gate_up, ff_out]
        weights += [block.attn_norm, *qkv, attn_out, block.ff_norm, gate_up, ff_out]
        biases += [part.bias for part in parts if part.bias is not None]
    if any(m.numel() > (_LARGEST_PACKED if m.is_mkldnn else _LARGEST) for m in matrices):
        return None
    return _Tensors(weights, biases, any(matrix.is_mkldnn for matrix in matrices))


def _first_rows(part: Part, rows: int) -> Part:
    """Packed parts end where they have to."""
    if part.weight.is_mkldnn:
        return part
    return Part(part.first, part.weight[:rows], bias_part(part.bias, 0, rows))


def _first(rows: Tensor, of: Tensor) -> Tensor:
    """As many of the rows as ``of`` has."""
    return rows if rows.shape[0] == of.shape[0] else rows[: of.shape[0]]


def _and_unused(index: Tensor) -> Tensor:
    """-1 for the rows of :func:`~dlmcache_cuda.model.packed.with_unused`."""
    return F.pad(index, (0, rounded_rows(len(index)) - len(index)), value=-1)


def _read_arguments(read: ReadRows | None, packed: bool) -> dict[str, Tensor]:
    if read is None:
        return {}
    places = _and_unused(read.places) if packed else read.places
    return {"read_places": places, "cu_read": read.rows.cu_rows}
