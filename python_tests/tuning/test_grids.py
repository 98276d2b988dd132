"""Grids: every combination is allowed, fits the room, and says what it is told."""

from __future__ import annotations

import pytest

from dlmcache_cuda import available_policies
from dlmcache_cuda.policies.spa import SpaConfig
from dlmcache_cuda.tuning.grids import Room, block_lengths, configs

POLICIES = [name for name in available_policies() if name != "none"]


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("length, steps", [(1, 1), (8, 3), (96, 9), (256, 256), (1024, 300)])
def test_grids_fit_any_room(name, length, steps):
    room = Room(length, steps, max(steps // 4, 1), {0.16: (0.1, 0.2)})
    base = available_policies()[name].Config()
    found = list(configs(name, base, room, {}))
    assert 1 <= len(found) <= 150
    for config in found:
        assert type(config) is type(base)
        window = getattr(config, "window_length", None)
        assert window is None or window <= max(length, 4)
    if length == 256:
        assert len(set(found)) == len(found) > 3


def test_own_values_take_the_place_of_the_axis():
    room = Room(64, 64, 64, {0.16: (0.1,)})
    grid = {"refresh_gen_steps": [3], "refresh_steps": [9], "max_update_ratio": [0.5, 0.2]}
    found = list(configs("spa", SpaConfig(proxy_rank=4), room, grid))
    assert found == [
        SpaConfig(proxy_rank=4, refresh_gen_steps=3, refresh_steps=9, max_update_ratio=ratio)
        for ratio in (0.5, 0.2)
    ]


def test_block_lengths_divide():
    assert block_lengths(96) == [4, 8, 16, 32, 96]
    assert block_lengths(10) == [10]
