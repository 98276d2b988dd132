"""Samples of the layers family.

Values are scaled so that what rounding does in one layer is not blown up by the next.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from dlmcache_cuda.testing.samples import Sample

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
WIDTH, INNER, HEAD_DIM, CAPACITY = 24, 40, 8, 13


def layers_call(
    dtype: torch.dtype = torch.float32,
    layers: int = 1,
    num_heads: int = 3,
    num_kv_heads: int = 3,
    bias: bool = False,
    ranges: tuple[tuple[int, int], ...] = ((2, 7), (0, 3)),
    kv_lens: tuple[int, ...] = (11, 9),
    unused: int = 0,
    read: Sequence[Sequence[int]] | None = None,
    device: str = "cpu",
) -> dict[str, object]:
    """Arguments by name: of every slot the positions of its range are computed, behind them come
    ``unused`` entries; ``read``: of every slot, which of its rows are read."""
    generator = torch.Generator().manual_seed(layers + num_heads + unused)

    def draw(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return (torch.randn(*shape, generator=generator) * scale).to(device, dtype)

    qkv = (num_heads + 2 * num_kv_heads) * HEAD_DIM
    weights = []
    for _ in range(layers):
        weights += [
            1 + draw(WIDTH, scale=0.1),
            draw(qkv, WIDTH, scale=WIDTH**-0.5),
            draw(WIDTH, num_heads * HEAD_DIM, scale=(num_heads * HEAD_DIM) ** -0.5),
            1 + draw(WIDTH, scale=0.1),
            draw(2 * INNER, WIDTH, scale=WIDTH**-0.5),
            draw(WIDTH, INNER, scale=INNER**-0.5),
        ]
    listed = [
        slot * CAPACITY + p for slot, (begin, end) in enumerate(ranges) for p in range(begin, end)
    ]
    counts = torch.tensor([end - begin for begin, end in ranges])
    angle = torch.randn(CAPACITY, HEAD_DIM // 2, generator=generator)
    cache = (layers, len(ranges) * CAPACITY, num_kv_heads, HEAD_DIM)
    call = {
        "h": draw(len(listed) + unused, WIDTH),
        "weights": weights,
        "biases": [draw(qkv, scale=0.3) for _ in range(layers)] if bias else [],
        "cos_sin": torch.cat((angle.cos(), angle.sin()), dim=1).to(device),
        "row_index": torch.tensor(listed + [-1] * unused, dtype=torch.int64, device=device),
        "cu_rows": torch.cat((torch.zeros(1, dtype=torch.int64), counts.cumsum(0))).to(device),
        "kv_lens": torch.tensor(kv_lens, device=device),
        "num_heads": num_heads,
        "eps": 1e-5,
        "k_cache": draw(*cache),
        "v_cache": draw(*cache),
    }
    return call if read is None else call | read_rows(call["cu_rows"], read)


def read_rows(cu_rows: torch.Tensor, read: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
    """Arguments that say which rows of each slot are read; -1 stands for none."""
    first = cu_rows.tolist()
    places = [-1 if i < 0 else first[slot] + i for slot, rows in enumerate(read) for i in rows]
    ends = torch.tensor([0, *map(len, read)]).cumsum(0)
    return {
        "read_places": torch.tensor(places, dtype=torch.int64, device=cu_rows.device),
        "cu_read": ends.to(cu_rows.device),
    }


def in_parts(call: dict[str, Any], *cuts: int, packed: bool = False) -> dict[str, Any]:
    """The same call with the projections divided at these rows.

    Args:
        cuts: rows, ascending.
        packed: all matrices in the order in which oneDNN reads them.
    """
    weights, biases, layers = [], [], len(call["k_cache"])
    for layer in range(layers):
        attn_norm, qkv, *others = call["weights"][6 * layer : 6 * layer + 6]
        weights += [attn_norm, *qkv.tensor_split(cuts), *others]
        if call["biases"]:
            biases += call["biases"][layer].tensor_split(cuts)
    if packed:
        weights = [w if w.dim() == 1 else _packed(w) for w in weights]
    return call | {"weights": weights, "biases": biases}


def _packed(weight: torch.Tensor) -> torch.Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), None)


def samples(device: str = "cpu") -> Iterator[Sample]:
    for dtype in DTYPES:
        for name, changes in (
            ("one", {}),
            ("grouped", {"num_heads": 4, "num_kv_heads": 2, "bias": True}),
            ("unused", {"unused": 4}),
            ("few-read", {"read": ((1, 4, -1), (2,))}),
        ):
            call = layers_call(dtype, device=device, **changes)
            yield Sample("forward_layers_", f"{dtype}-{name}", tuple(call.values()))
    call = layers_call(layers=3, bias=True, device=device)
    yield Sample("forward_layers_", "three", tuple(call.values()))
    for name, cuts in (("queries-apart", (24,)), ("in-three", (30, 50))):
        parts = in_parts(call, *cuts)
        yield Sample("forward_layers_", name, tuple(parts.values()))
    call = layers_call(ranges=((0, 0), (4, 4)), device=device)
    yield Sample("forward_layers_", "no-rows", tuple(call.values()))
    call = layers_call(device=device)
    call["h"] = torch.cat((call["h"], call["h"]), dim=1)[:, :WIDTH]
    yield Sample("forward_layers_", "strided", tuple(call.values()))
