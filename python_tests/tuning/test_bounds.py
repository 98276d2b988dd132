"""Bounds of a loss: quantiles from tables, and how often they hold."""

from __future__ import annotations

import random

import pytest

from dlmcache_cuda.tuning.bounds import least_upper_bound, loss_bounds, student_quantile


@pytest.mark.parametrize(
    "confidence, freedom, expected",
    [
        (0.9, 1, 3.078), (0.95, 1, 6.314), (0.9, 2, 1.886), (0.99, 2, 6.965), (0.9, 3, 1.638),
        (0.95, 3, 2.353), (0.99, 3, 4.541), (0.95, 5, 2.015), (0.9, 10, 1.372), (0.99, 30, 2.457),
    ],
)  # fmt: skip
def test_quantiles_are_those_of_the_table(confidence, freedom, expected):
    assert student_quantile(confidence, freedom) == pytest.approx(expected, rel=0.02)


def test_nothing_lost_still_leaves_room():
    loss = loss_bounds([0.0] * 4, [50.0] * 4, 0.9)
    assert (loss.mean, loss.lower) == (0, 0)
    assert (
        loss.upper == pytest.approx(least_upper_bound(200, 0.9)) == pytest.approx(0.0081, abs=1e-3)
    )


def test_without_confidence_the_bounds_are_the_mean():
    loss = loss_bounds([1.0, 3.0], [10.0, 10.0], 0.5)
    assert loss.mean == loss.lower == pytest.approx(loss.upper) == pytest.approx(0.2)


def test_one_bad_prompt_widens_the_bounds():
    spread = loss_bounds([4.0] * 5, [50.0] * 5, 0.9)
    bad = loss_bounds([20.0, 0, 0, 0, 0], [50.0] * 5, 0.9)
    assert spread.mean == bad.mean and bad.upper > spread.upper and bad.lower < spread.lower


def test_gains_count():
    assert loss_bounds([-1.0, -1.0], [1.0, 1.0], 0.9).mean == -1


@pytest.mark.parametrize("share", [0.01, 0.05])
def test_the_upper_bound_holds_as_often_as_it_says(share):
    """Prompts of 60 tokens, of which a drawn few go wrong in long runs."""
    rng = random.Random(1)
    held = 0
    for _ in range(400):
        lost = [float(min(rng.expovariate(1 / (60 * share)), 60)) for _ in range(12)]
        held += loss_bounds(lost, [60.0] * 12, 0.9).upper >= share
    assert held / 400 > 0.8
