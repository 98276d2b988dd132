"""All layers by one operator, where starting the operators of every layer would take as long as
they do."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from dlmcache_cuda import ops
from dlmcache_cuda.cache import KVCache, RowList
from dlmcache_cuda.model.attention import KeyLengths, takes_dense
from dlmcache_cuda.model.block import LladaBlock
from dlmcache_cuda.model.linear import PlainLinear
from dlmcache_cuda.model.read_rows import ReadRows
from dlmcache_cuda.model.weights import BlockWeights

# With more rows the arithmetic outweighs everything else, and all buffers at once would be large.
_MOST_ROWS = 1024

# Nor are larger matrices worth it: starting a product is nothing beside computing it.
_LARGEST = 2**18

# Weights and biases as the operator takes them.
_Tensors = tuple[list[Tensor], list[Tensor]]


class WholeStack:
    """:func:`dlmcache_cuda.ops.forward_layers_`, and what else takes rows through many layers, on
    the weights of a model's blocks."""

    def __init__(self, layers: Sequence[LladaBlock]) -> None:
        self._layers = layers
        # By rows of the proxy below the projections. One attribute, so that threads see weights and
        # tensors that belong together.
        self._known: tuple[list[BlockWeights], dict[int, _Tensors | None]] = ([], {})

    def takes(self, rows: RowList, cache: KVCache, key_lengths: KeyLengths) -> bool:
        """Whether these rows may go through it: few, on a CPU, by plain and small matrices alone,
        and none of them by dense attention."""
        return (
            rows.max_rows <= _MOST_ROWS
            and cache.whole is not None
            and rows.row_index.is_cpu
            and self._tensors() is not None
            and not takes_dense(rows, key_lengths)
        )

    def forward(
        self,
        h: Tensor,
        rows: RowList,
        cos_sin: Tensor,
        cache: KVCache,
        key_lengths: KeyLengths,
        read: ReadRows | None = None,
    ) -> tuple[Tensor, Tensor]:
        """What all blocks make of the embeddings ``h [R, W]``: the two terms of the residual stream
        behind the last one."""
        arguments = self._arguments(h, rows, cos_sin, cache, key_lengths)
        return ops.forward_layers_(*arguments, **_read_arguments(read))

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
    ) -> tuple[Tensor, Tensor, Tensor]:
        """From a layer on, whose inputs ``h`` are, up to the first in which a test fails; see
        :func:`dlmcache_cuda.ops.track_layers_`."""
        arguments = self._arguments(h, rows, cos_sin, cache, key_lengths)
        return ops.track_layers_(*arguments, first_layer, **tracking, **_read_arguments(read))

    def forward_selected(
        self,
        h: Tensor,
        rows: RowList,
        cos_sin: Tensor,
        cache: KVCache,
        key_lengths: KeyLengths,
        proxy_rank: int,
        **selection: Any,
    ) -> Tensor:
        """The embeddings ``h`` behind all layers, which compute a part of the rows; see
        :func:`dlmcache_cuda.ops.select_layers_`."""
        arguments = self._arguments(h, rows, cos_sin, cache, key_lengths, proxy_rank)
        return ops.select_layers_(*arguments, proxy_rank=proxy_rank, **selection)

    def _arguments(
        self,
        h: Tensor,
        rows: RowList,
        cos_sin: Tensor,
        cache: KVCache,
        key_lengths: KeyLengths,
        proxy_rank: int = 0,
    ) -> tuple[Any, ...]:
        weights, biases = self._tensors(proxy_rank)
        block = self._layers[0]
        return (
            h, weights, biases, cos_sin, rows.row_index, rows.cu_rows, key_lengths.device,
            block.num_heads, block.eps, *cache.whole,
        )  # fmt: skip

    def _tensors(self, proxy_rank: int = 0) -> _Tensors | None:
        """None where a matrix is not plain or not small. Blocks get other weights when a proxy is
        put below their projections."""
        of, tensors = self._known
        now = [layer.weights for layer in self._layers]
        if len(of) != len(now) or any(a is not b for a, b in zip(of, now, strict=True)):
            tensors = {}
        if proxy_rank not in tensors:
            tensors = {**tensors, proxy_rank: _tensors(now, proxy_rank)}
            self._known = now, tensors
        return tensors[proxy_rank]


def _read_arguments(read: ReadRows | None) -> dict[str, Tensor]:
    return {} if read is None else {"read_places": read.places, "cu_read": read.rows.cu_rows}


def _tensors(blocks: Sequence[BlockWeights], proxy_rank: int) -> _Tensors | None:
    weights, biases = [], []
    for block in blocks:
        matrices = (block.qkv, block.attn_out, block.gate_up, block.ff_out)
        if not all(isinstance(matrix, PlainLinear) for matrix in matrices):
            return None
        if any(matrix.bias is not None for matrix in matrices[1:]):
            return None
        qkv, attn_out, gate_up, ff_out = (matrix.rows() for matrix in matrices)
        qkv = qkv[: block.qkv_rows + proxy_rank]
        if max(part.numel() for part in (qkv, attn_out, gate_up, ff_out)) > _LARGEST:
            return None
        weights += [block.attn_norm, qkv, attn_out, block.ff_norm, gate_up, ff_out]
        if block.qkv.bias is not None:
            biases.append(block.qkv.bias[: block.qkv_rows + proxy_rank])
    return weights, biases
