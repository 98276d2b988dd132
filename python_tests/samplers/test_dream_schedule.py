"""Dream's schedule, as its code computes it."""

from __future__ import annotations

import pytest
import torch

from dlmcache_cuda.samplers import DreamSchedule, FixedK, Origin
from dlmcache_cuda.samplers.rules import SHARE_UNIT


@pytest.mark.parametrize("masks, steps", [(1, 1), (16, 16), (256, 256), (37, 8), (5, 40), (512, 3)])
def test_numbers_of_the_reference_code(masks, steps):
    rule = DreamSchedule(steps)
    times = torch.linspace(1, 1e-3, steps + 1)
    left = masks
    for step in range(steps):
        assert not rule.is_over(step, masks)
        share = 1 - times[step + 1] / times[step]
        number = int(torch.tensor(left) * share) if step < steps - 1 else left
        assert rule.num_commit(step, masks, left) == number
        assert rule.num_commit(step, masks, left) <= left
        left -= number
    assert left == 0 and rule.is_over(steps, masks)


def test_as_many_steps_as_masks_begin_with_none_and_end_with_two():
    rule, left, numbers = DreamSchedule(256), 256, []
    for step in range(256):
        numbers.append(rule.num_commit(step, 256, left))
        left -= numbers[-1]
    assert numbers[0] == 0 and numbers[-1] == 2 and sum(numbers) == 256


def test_at_least_so_many():
    rule = DreamSchedule(16, min_commit=2)
    assert [rule.num_commit(step, 16, 16 - 2 * step) for step in range(8)] == [2] * 8
    assert rule.bounded


def test_probabilities_of_origin():
    rule = Origin(10)
    times = torch.linspace(1, 1e-3, 11)
    for step in range(10):
        chance = rule.num_commit(step, 7, 7) * SHARE_UNIT
        expected = 1 - times[step + 1] / times[step] if step < 9 else 1.0
        assert chance == pytest.approx(float(expected), abs=1e-12)
        assert not rule.is_over(step, 7)
    assert rule.is_over(10, 7)
    # Every candidate is due for ops.commit_, however many steps there are.
    assert Origin(10**6).num_commit(0, 1, 1) > 2**31


def test_fixed_k_ends_with_its_last_commit():
    rule = FixedK(8)
    numbers = [rule.num_commit(step, 5, 5 - step) for step in range(8)]
    assert numbers == [1] * 5 + [0] * 3
    assert [rule.is_over(step, 5) for step in range(8)] == [False] * 5 + [True] * 3
