"""From the weights of a checkpoint to the packed matrices of the model."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from dlmcache_cuda.model.config import LladaConfig
from dlmcache_cuda.model.fp8 import MULTIPLE
from dlmcache_cuda.model.linear import Fp8Linear, Linear
from dlmcache_cuda.model.names import WeightNames, weight_names
from dlmcache_cuda.model.packed import pack_linear

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_LISTED = 10  # names in one error message
_BUFFERS = ("rotary_emb.inv_freq",)  # constants that some writers store; computed here


class WeightSource(Protocol):
    """Named weights, in files or in memory."""

    source: str

    def names(self) -> list[str]: ...
    def shape(self, name: str) -> tuple[int, ...]: ...
    def read(self, name: str) -> Tensor: ...


@dataclass(frozen=True, slots=True)
class BlockWeights:
    """Weights of one block. H query heads, Hkv key-value heads, D head size, F inner width.

    The sizes of matrices are those of their ``rows()``.
    """

    attn_norm: Tensor
    """``[W]``"""
    qkv: Linear
    """``[(H + 2 Hkv) D + r, W]``: query, key and value projections on top of each other, with bias
    in models that have one, and below them the proxy, which has none."""
    attn_out: Linear
    """``[W, H D]``"""
    ff_norm: Tensor
    """``[W]``"""
    gate_up: Linear
    """``[2 F, W]``: gate, then up projection."""
    ff_out: Linear
    """``[W, F]``: down projection."""
    proxy_rank: int = 0
    """r, 0 until a proxy is asked for; see :mod:`dlmcache_cuda.model.proxy`."""

    @property
    def qkv_rows(self) -> int:
        """``(H + 2 Hkv) D``"""
        return len(self.qkv) - self.proxy_rank

    @property
    def qkv_bias(self) -> Tensor | None:
        """``[(H + 2 Hkv) D]``, in the order of ``qkv``; None in models without."""
        return None if self.qkv.bias is None else self.qkv.bias[: self.qkv_rows]

    def with_proxy(self, proxy: Tensor) -> BlockWeights:
        """These weights with ``proxy [r, W]`` below the projections, in place of any other."""
        return replace(self, qkv=self.qkv.with_rows(self.qkv_rows, proxy), proxy_rank=len(proxy))

    @property
    def nbytes(self) -> int:
        """Memory, in bytes."""
        parts = (self.attn_norm, self.qkv, self.attn_out, self.ff_norm, self.gate_up, self.ff_out)
        return sum(part.nbytes for part in parts)


@dataclass(frozen=True, slots=True)
class ModelWeights:
    """All weights of a model."""

    embedding: Tensor
    """``[V, W]``"""
    final_norm: Tensor
    """``[W]``"""
    head: Tensor
    """``[V, W]``; the embedding itself where the two are tied."""
    blocks: tuple[BlockWeights, ...]


def load_weights(
    source: WeightSource,
    config: LladaConfig,
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    fp8: bool = False,
    keep: Collection[torch.dtype] = DTYPES,
) -> ModelWeights:
    """Check a checkpoint's weights and pack them.

    Names and shapes are checked before the first weight is read. Every weight is then copied once,
    straight to its place on the device: the peak is the model plus one weight. Matrices that become
    fp8, or are packed for the processor, are copied whole first: the peak is then the model plus a
    few times its largest matrix.

    Args:
        source: where the weights come from.
        config: says which weights there must be.
        device: where they go.
        dtype: their type there; default: that of the stored embedding.
        keep: where that is none of these, float32.
        fp8: store the matrices of the blocks as float8_e4m3fn, with one scale per row.

    Raises:
        ValueError: sizes that fp8 does not go with; weights missing, twice, left over, of another
            shape, not floating point, or not finite (also when ``dtype`` cannot hold them).
    """
    names = weight_names(config)
    stored = _check_names(source, config, names)
    if fp8:
        _check_fp8_sizes(source, config)
    if dtype is None:
        dtype = source.read(stored[names.embedding]).dtype
        dtype = dtype if dtype in keep else torch.float32

    def pack(*parts: str) -> Tensor:
        rows = [source.shape(stored[part])[0] for part in parts]
        shape = (sum(rows), *source.shape(stored[parts[0]])[1:])
        packed = torch.empty(shape, dtype=dtype, device=device)
        for part, place in zip(parts, packed.split(rows), strict=True):
            place.copy_(_floating(source, stored[part]))
            _check_finite(source, stored[part], place)
        return packed

    linear = Fp8Linear.quantise if fp8 else pack_linear
    embedding = pack(names.embedding)
    head = embedding if config.weight_tying else pack(names.head)
    if config.weight_tying and names.head in stored:
        _check_tied(source, stored[names.embedding], stored[names.head])
    blocks = []
    for layer in range(config.n_layers):
        block = names.block.format(layer)
        biases = names.qkv_bias
        blocks.append(
            BlockWeights(
                attn_norm=pack(block + names.attn_norm),
                qkv=linear(
                    pack(block + names.q, block + names.k, block + names.v),
                    None if biases is None else pack(*(block + bias for bias in biases)),
                ),
                attn_out=linear(pack(block + names.attn_out)),
                ff_norm=pack(block + names.ff_norm),
                gate_up=linear(pack(block + names.gate, block + names.up)),
                ff_out=linear(pack(block + names.down)),
            )
        )
    return ModelWeights(embedding, pack(names.final_norm), head, tuple(blocks))


def _check_names(source: WeightSource, config: LladaConfig, names: WeightNames) -> dict[str, str]:
    """Plain name -> stored name of every weight."""
    stored: dict[str, str] = {}
    for name in source.names():
        if name.endswith(_BUFFERS):
            continue
        plain = names.strip(name)
        if plain.startswith(names.beside):
            continue
        if plain in stored:
            raise ValueError(f"{source.source}: {stored[plain]} and {name} are the same weight")
        stored[plain] = name
    shapes = names.shapes(config)
    missing = [name for name in shapes if name not in stored]
    if missing:
        raise ValueError(f"{source.source}: {_list('missing', missing)}")
    # Writers that do not know about tying store the head a second time.
    allowed = {*shapes, names.head} if config.weight_tying else {*shapes}
    extra = sorted(name for plain, name in stored.items() if plain not in allowed)
    if extra:
        raise ValueError(f"{source.source}: {_list('unexpected', extra)}")
    for plain, shape in shapes.items():
        given = source.shape(stored[plain])
        if given != shape:
            raise ValueError(
                f"{source.source}: {stored[plain]} has shape {list(given)}, "
                f"the config makes it {list(shape)}"
            )
    return stored


def _check_fp8_sizes(source: WeightSource, config: LladaConfig) -> None:
    sizes = {
        "the width": config.d_model,
        "the width of keys and values": config.n_kv_heads * config.head_dim,
        "the inner width": config.mlp_hidden_size,
    }
    for what, size in sizes.items():
        if size % MULTIPLE:
            raise ValueError(
                f"{source.source}: weights 'fp8' needs sizes that are multiples of {MULTIPLE}, but "
                f"{what} is {size}; leave weights out"
            )


def _list(what: str, names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return f"{len(names)} {what} weights: {', '.join(names[:_LISTED])}{more}"


def _floating(source: WeightSource, name: str) -> Tensor:
    weight = source.read(name)
    if weight.dtype not in (*DTYPES, torch.float64):
        raise ValueError(
            f"{source.source}: {name} is stored as {weight.dtype}; quantised weights are not "
            "implemented, only float64, float32, float16 and bfloat16"
        )
    return weight


def _check_finite(source: WeightSource, name: str, loaded: Tensor) -> None:
    if not loaded.numel():
        return
    # The extremes need no temporary of the weight's size; NaN shows in both.
    if torch.stack(loaded.aminmax()).isfinite().all():
        return
    what = "NaN" if loaded.isnan().any() else "infinity"
    stored = source.read(name)
    where = (
        "" if not stored.isfinite().all() else f" in {loaded.dtype}, though not in {stored.dtype}"
    )
    raise ValueError(f"{source.source}: {name} contains {what}{where}")


def _check_tied(source: WeightSource, embedding: str, head: str) -> None:
    if not torch.equal(source.read(embedding), source.read(head)):
        raise ValueError(
            f"{source.source}: the config ties the head to the embedding, but {head} differs from "
            f"{embedding}"
        )
