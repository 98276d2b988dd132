"""Samples of the tracked_layers family: rows of the layers family that are followed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from dlmcache_cuda.testing.samples import Sample
from dlmcache_cuda.testing.samples.layers import CAPACITY, WIDTH, in_parts, layers_call, read_rows


def tracked_call(
    dtype: torch.dtype = torch.float32,
    *,
    tracked: Sequence[Sequence[int]] = ((3, 6), (1,)),
    window: Sequence[Sequence[int]] = ((4, 5), (0, 2)),
    tested: Sequence[bool] = (True, True),
    limits: Sequence[int] = (2, 1),
    first_layer: int = 0,
    gamma: float = -1.0,
    similarity: int = 0,
    read: Sequence[Sequence[int]] | None = None,
    device: str = "cpu",
    **layers: object,
) -> dict[str, object]:
    """Arguments by name, of two slots; lists hold positions."""
    call = layers_call(dtype, device=device, **layers)
    count = len(call["k_cache"])
    generator = torch.Generator().manual_seed(count)
    shape = (count, 2 * CAPACITY, WIDTH)

    def listed(slots: Sequence[Sequence[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        index = [slot * CAPACITY + p for slot, places in enumerate(slots) for p in places]
        ends = torch.tensor([0, *map(len, slots)]).cumsum(0)
        return torch.tensor(index, dtype=torch.int64, device=device), ends.to(device)

    open_rows = [[p for p in range(9) if p not in places] for places in window]
    lists = [rows for slots in (window, open_rows) for rows in listed(slots)]
    call |= {
        "first_layer": first_layer,
        "inputs": torch.randn(shape, generator=generator).to(device, dtype),
        "found": torch.zeros(count, 2 * CAPACITY, dtype=torch.bool, device=device),
        **dict(zip(("tracked_index", "cu_tracked"), listed(tracked), strict=True)),
        "tested": torch.tensor(tested, device=device),
        "gamma": gamma,
        "similarity": similarity,
        **dict(zip(("window_index", "cu_window", "open_index", "cu_open"), lists, strict=True)),
        "limits": torch.tensor(limits, device=device),
    }
    return call if read is None else call | read_rows(call["cu_rows"], read)


CALLS: dict[str, dict] = {
    "one-layer": {},
    "rows": {"layers": 3, "similarity": 1, "bias": True},
    "from-the-second": {"layers": 3, "first_layer": 1, "num_heads": 4, "num_kv_heads": 2},
    "stops": {"layers": 3, "gamma": 2.0},
    "one-slot-tested": {"layers": 2, "tracked": ((3,), ()), "tested": (True, False)},
    "untested": {"layers": 2, "tracked": ((), ()), "tested": (False, False), "gamma": 2.0},
    "no-window": {"layers": 2, "window": ((), ())},
    "unused": {"layers": 2, "unused": 3},
    "few-read": {"layers": 2, "read": ((2, 3), (0, 2))},
    "few-read-of-one": {"read": ((4,), ())},
    "stops-before-few-are-read": {"layers": 3, "gamma": 2.0, "read": ((2,), (1,))},
}


def samples(device: str = "cpu") -> Iterator[Sample]:
    for name, changes in CALLS.items():
        call = tracked_call(device=device, **changes)
        yield Sample("track_layers_", name, tuple(call.values()))
    call = in_parts(tracked_call(layers=2, bias=True, device=device), 24)
    yield Sample("track_layers_", "queries-apart", tuple(call.values()))
    for dtype in (torch.bfloat16, torch.float16):
        call = tracked_call(dtype, window=((), ()), device=device)
        yield Sample("track_layers_", f"{dtype}", tuple(call.values()))
