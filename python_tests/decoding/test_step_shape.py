"""Sizes of captured steps."""

from __future__ import annotations

import pytest

from dlmcache_cuda.decoding.step_shape import StepShape, rounded_size


def test_sizes_are_rounded_up_to_few():
    sizes = [rounded_size(rows) for rows in range(4097)]
    assert sizes[0] == 0
    assert all(size >= rows for rows, size in enumerate(sizes))
    assert sizes == sorted(sizes)
    assert all(size <= rows * 9 / 8 for rows, size in enumerate(sizes) if rows >= 512)
    assert len(set(sizes)) < 40
    assert all(rounded_size(size) == size for size in sizes)


@pytest.mark.parametrize("budgets", [None, (None, 5, 40)])
def test_a_rounded_shape_relies_on_no_counts(budgets):
    shape = StepShape(
        entering=20,
        counts=(20,),
        predicted=9,
        committable=None,
        listed=3,
        window=0,
        budgets=budgets,
        marked=True,
        anywhere=False,
        expected=False,
        may_lack=False,
        limited=False,
        sliced=False,
        tested=False,
        cuts=False,
    )
    rounded = shape.rounded()
    assert rounded.counts is None
    assert (rounded.entering, rounded.predicted, rounded.window) == (32, 32, 0)
    assert (rounded.committable, rounded.listed) == (None, 32)
    assert rounded.budgets == (None if budgets is None else (None, 32, 64))
    assert (rounded.marked, rounded.tested) == (True, False)
    assert rounded.rounded() == rounded
