"""Which settings of each policy are worth trying: the one place that says so.

Intervals are fractions of the steps that vanilla took, windows and row counts those of
``gen_length``, so that the grids fit any model and length. Within an axis, values come cheapest
first.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dlmcache_cuda.policies import PolicyConfig
from dlmcache_cuda.tuning.plain import plain

Axis = Sequence[Mapping[str, Any]]
"""Alternatives; each gives values to one or more settings."""

MEAN_RATIOS = (0.08, 0.16, 0.32)
"""Measured budgets that are tried, as averages over the layers."""


@dataclass(frozen=True, slots=True)
class Room:
    """What a grid is made to fit.

    Args:
        gen_length: positions that are decoded.
        steps: steps of a sequence without a cache, on average.
        block_steps: steps of a block.
        measured: budgets per layer, by their average; empty where nothing was measured.
    """

    gen_length: int
    steps: int
    block_steps: int
    measured: Mapping[float, tuple[float, ...]]


def takes_measured_budgets(config: PolicyConfig) -> bool:
    """Whether a policy has a budget for every layer."""
    return any(field.name == "layer_ratios" for field in dataclasses.fields(config))


def configs(
    name: str, base: PolicyConfig, room: Room, grid: Mapping[str, Sequence[Any]]
) -> Iterator[PolicyConfig]:
    """All settings to try.

    Args:
        name: of the policy.
        base: what settings that are not searched are.
        room: see there.
        grid: values to try for a setting, in place of those here.

    Raises:
        ValueError: a setting is unknown, or a value not allowed.
    """
    known = [field.name for field in dataclasses.fields(base)]
    for setting, values in grid.items():
        if setting not in known:
            raise ValueError(
                f"grid: {name!r} has no setting {setting!r}; it has {', '.join(known) or 'none'}"
            )
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise ValueError(f"grid: {setting} must be a list of values to try, got {values!r}")
    own = _AXES[name](room) if name in _AXES else []
    axes = [axis for axis in own if not any(set(choice) & set(grid) for choice in axis)]
    axes += [[{setting: plain(value)} for value in values] for setting, values in grid.items()]
    for choices in itertools.product(*axes):
        values: dict[str, Any] = {}
        for choice in choices:
            values |= choice
        yield dataclasses.replace(base, **values)


def _intervals(name: str, steps: int, *, never: Any = None, most: int = 32) -> Axis:
    """Every so many steps: the whole run, a half, a quarter, ... down to 2.

    Args:
        never: what stands for "not again in this run"; by default the number of steps.
        most: the run is divided into that many parts at most.
    """
    found: list[Any] = []
    parts = 1
    while parts <= most and steps // parts >= 2:
        found.append(steps // parts)
        parts *= 2
    found = found or [2]
    if never == "none":
        found[0] = None
    return [{name: value} for value in dict.fromkeys(found)]


def _sizes(name: str, gen_length: int, *, least: int, most: int) -> Axis:
    """Powers of two of a number of positions, within the generation region."""
    sizes = [2**power for power in range(12) if least <= 2**power <= min(most, gen_length)]
    return [{name: size} for size in sizes or [min(least, gen_length)]]


def _blocks(room: Room) -> list[Axis]:
    return [_intervals("refresh_steps", room.block_steps, never="none", most=8)]


def _dkv_decode(room: Room) -> list[Axis]:
    return [_intervals("cache_reloading_step", room.block_steps)]


def _dkv_greedy(room: Room) -> list[Axis]:
    return [
        _intervals("cache_reloading_step", min(room.block_steps, 8)),
        [{"window_length": 0}, *_sizes("window_length", room.gen_length, least=2, most=16)],
    ]


def _dkv_prefill(room: Room) -> list[Axis]:
    return [_intervals("refresh_steps", room.steps, never="none", most=8)]


def _dkv_pd(room: Room) -> list[Axis]:
    return [
        _intervals("prompt_refresh_steps", room.steps, never="none", most=4),
        _intervals("cache_reloading_step", room.steps),
    ]


def _windows(room: Room) -> Axis:
    return _sizes("window_length", room.gen_length, least=4, most=32)


def _elastic(room: Room) -> list[Axis]:
    return [_windows(room), [{"gamma": g} for g in (-1.0, 0.5, 0.7, 0.8, 0.9, 0.95)]]


def _budgets(room: Room, peaks: Sequence[float]) -> Axis:
    """Published curves of several heights, and what was measured on the model."""
    curves = [{"max_update_ratio": peak, "layer_ratios": None} for peak in peaks]
    measured = [{"layer_ratios": ratios} for ratios in room.measured.values()]
    return [*curves, *measured]


def _spa(room: Room) -> list[Axis]:
    return [
        [{"refresh_steps": max(room.steps, 2)}, {"refresh_steps": max(room.steps // 4, 2)}],
        _budgets(room, (0.125, 0.25, 0.5)),
        _intervals("refresh_gen_steps", room.steps),
    ]


def _dllm(room: Room) -> list[Axis]:
    return [
        _intervals("prompt_interval_steps", room.steps, most=4),
        [{"transfer_ratio": ratio} for ratio in (0.0625, 0.125, 0.25, 0.5)],
        _intervals("gen_interval_steps", room.steps),
    ]


def _d2(room: Room) -> list[Axis]:
    return [
        _intervals("refresh_steps", room.steps, never="none", most=8),
        [{"rollout_p": share} for share in (0.02, 0.1, 0.3)],
        _sizes("current_k", room.gen_length, least=4, most=32),
    ]


def _composed(room: Room) -> list[Axis]:
    windows = _sizes("window_length", room.gen_length, least=4, most=16)
    return [windows, _budgets(room, (0.125, 0.25)), [{"gamma": g} for g in (0.5, 0.7, 0.8, 0.9)]]


_AXES: dict[str, Callable[[Room], list[Axis]]] = {
    "prefix": _blocks,
    "dual": _blocks,
    "dkv-decode": _dkv_decode,
    "dkv-greedy": _dkv_greedy,
    "dkv-prefill": _dkv_prefill,
    "dkv-pd": _dkv_pd,
    "elastic": _elastic,
    "spa": _spa,
    "dllm": _dllm,
    "d2": _d2,
    "composed": _composed,
}

BLOCK_POLICIES = ("prefix", "dual")
"""What these recompute is the block: its length is their setting more than any other."""


def block_lengths(gen_length: int) -> list[int]:
    """Block lengths to try: powers of two from 4 to 64 that divide, and one block."""
    powers = [2**power for power in range(2, 7)]
    return [length for length in powers if length < gen_length and gen_length % length == 0] + [
        gen_length
    ]
