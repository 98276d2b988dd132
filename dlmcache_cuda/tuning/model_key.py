"""Tells models apart, so that no model is given the results of another one."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch
from torch import Tensor

from dlmcache_cuda.model import Llada
from dlmcache_cuda.model.linear import Linear

# Numbers that are added up at a time: of each a copy of 8 bytes is made, which on a CPU should
# stay in its caches. On a GPU few kernels count more.
_AT_ONCE_CPU = 2**16
_AT_ONCE_CUDA = 2**24
# Rows of an fp8 matrix that are made at a time.
_FP8_ROWS = 1024
_AS_INTEGERS = {2: torch.int16, 4: torch.int32}


def model_key(model: Llada) -> str:
    """By configuration, special tokens, storage and all weights; equal models give equal keys.

    Every weight counts, since a fine-tune may leave most of them as they were. Integers are added
    up, so that neither the number of threads nor the device changes a key.
    """
    digest = hashlib.sha256()
    for weight in _weights(model):
        digest.update(f"{tuple(weight.shape)} {weight.dtype};".encode())
        digest.update(_row_sums(weight).cpu().numpy().tobytes())
    special = (
        model.mask_token_id, tuple(model.end_token_ids), model.pad_token_id,
        tuple(model.suppress_token_ids),
    )  # fmt: skip
    linear = type(model.layers[0].weights.gate_up).__name__
    digest.update(repr((model.config, special, str(model.dtype), linear)).encode())
    return digest.hexdigest()[:32]


def _weights(model: Llada) -> Iterator[Tensor]:
    """All of them, one matrix at a time: packed and fp8 ones are made for it."""
    yield model.embedding
    yield model.final_norm
    yield model.head
    for layer in model.layers:
        weights = layer.weights
        yield weights.attn_norm
        yield weights.ff_norm
        # Without the proxy, which a policy puts there.
        yield from _rows(weights.qkv, weights.qkv_rows)
        for linear in (weights.attn_out, weights.gate_up, weights.ff_out):
            yield from _rows(linear, len(linear))
        biases = (
            weights.qkv_bias, weights.attn_out.bias, weights.gate_up.bias, weights.ff_out.bias
        )  # fmt: skip
        yield from (bias for bias in biases if bias is not None)


def _rows(linear: Linear, count: int) -> Iterator[Tensor]:
    """The first ``count`` rows. Whole, where they are stored or unpacked: a part of a packed matrix
    costs as much as all of it."""
    step = count if linear.stored else _FP8_ROWS
    for first in range(0, count, step):
        yield linear.rows(first, min(first + step, count))


def _row_sums(weight: Tensor) -> Tensor:
    """``[rows]`` int64: the bits of every row, read as integers and added up."""
    bits = weight.contiguous().view(_AS_INTEGERS[weight.itemsize])
    bits = bits.reshape(-1, bits.shape[-1])
    numbers = _AT_ONCE_CPU if bits.device.type == "cpu" else _AT_ONCE_CUDA
    parts = bits.split(max(numbers // bits.shape[1], 1))
    return torch.cat([part.sum(dim=1, dtype=torch.int64) for part in parts])
