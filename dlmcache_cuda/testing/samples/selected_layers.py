"""Samples of the selected_layers family: rows of the layers family, some of which are computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from dlmcache_cuda.testing.samples import Sample
from dlmcache_cuda.testing.samples.layers import CAPACITY, WIDTH, in_parts, layers_call

NOTHING, PROXY, VALUE = range(3)  # signal
CARRIED, SELECTED, VALUES = range(3)  # kv_rows


def selected_call(
    dtype: torch.dtype = torch.float32,
    *,
    numbers: Sequence[Sequence[int]] = ((5, 3), (2, 1)),
    sizes: Sequence[int] = (-1, 3),
    first: int = 1,
    forced: Sequence[int] | None = None,
    proxy_rank: int = 6,
    signal: int = PROXY,
    kv_rows: int = CARRIED,
    update_all: bool = True,
    reuse_output: bool = False,
    device: str = "cpu",
    **layers: object,
) -> dict[str, object]:
    """Arguments by name, of two slots; ``forced`` holds rows."""
    count = len(sizes)
    call = layers_call(dtype, layers=count, device=device, **layers)
    generator = torch.Generator().manual_seed(count)

    def draw(*shape: int, scale: float = 1.0) -> torch.Tensor:
        return (torch.randn(*shape, generator=generator) * scale).to(device, dtype)

    proxy_rank = proxy_rank if signal == PROXY else 0
    for layer in range(count):
        proxy = draw(proxy_rank, WIDTH, scale=WIDTH**-0.5)
        call["weights"][6 * layer + 1] = torch.cat((call["weights"][6 * layer + 1], proxy))
    call["biases"] = [torch.cat((b, b.new_zeros(proxy_rank))) for b in call["biases"]]
    flags = None
    if forced is not None:
        flags = torch.zeros(2 * CAPACITY, dtype=torch.bool, device=device)
        flags[list(forced)] = True
    return call | {
        "delta": draw(count - first, 2 * CAPACITY, WIDTH),
        "reference": draw(*(count - first, 2 * CAPACITY, proxy_rank) if proxy_rank else (0,)),
        "numbers": torch.tensor(numbers, device=device),
        "sizes": list(sizes),
        "forced": flags,
        "proxy_rank": proxy_rank,
        "signal": signal,
        "kv_rows": kv_rows,
        "update_all": update_all,
        "reuse_output": reuse_output,
    }


_THREE = {"numbers": ((5, 3), (1, 2), (4, 0)), "sizes": (-1, 3, 4)}
_FROM_THE_FIRST = {"numbers": ((2, 2), (2, 1)), "sizes": (4, 3), "first": 0}
CALLS: dict[str, dict] = {
    "proxy": {},
    "biased": {"bias": True, "num_heads": 4, "num_kv_heads": 2, **_THREE},
    "selected-keys": {"kv_rows": SELECTED, "reuse_output": True, **_THREE},
    "own-reference": {"update_all": False, **_THREE},
    "dense": {"numbers": ((5, 3), (5, 3)), "sizes": (-1, -1)},
    "one-layer": {"numbers": ((5, 3),), "sizes": (-1,), "first": 1},
    "values": {"signal": VALUE, "kv_rows": VALUES, "forced": (2, 14), **_FROM_THE_FIRST},
    "values-of-all": {"signal": VALUE, "bias": True, **_FROM_THE_FIRST},
    "forced-alone": {
        "signal": NOTHING, "kv_rows": SELECTED, "forced": (4, 5, 13), **_FROM_THE_FIRST,
    },
    "nothing-compared": {"signal": NOTHING, "first": 0},
    "unused": {"unused": 3},
}  # fmt: skip


def samples(device: str = "cpu") -> Iterator[Sample]:
    for name, changes in CALLS.items():
        call = selected_call(device=device, **changes)
        yield Sample("select_layers_", name, tuple(call.values()))
    call = in_parts(selected_call(bias=True, device=device), 24, 72)
    yield Sample("select_layers_", "in-three", tuple(call.values()))
    for dtype in (torch.bfloat16, torch.float16):
        # All rows are chosen: which drift is larger is not for rounding to decide.
        call = selected_call(dtype, numbers=((5, 3), (5, 3)), sizes=(-1, 8), device=device)
        yield Sample("select_layers_", f"{dtype}", tuple(call.values()))
