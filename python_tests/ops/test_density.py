"""density: errors, corner cases, and the definition by convolution."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from dlmcache_cuda import ops, reference


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"known": torch.zeros(11).bool()}, r"known must have shape \[12\], got \[11\]"),
        ({"known": torch.zeros(12)}, "known must be Bool, got Float"),
        ({"known": torch.zeros(24).bool()[::2]}, "known must be contiguous"),
        ({"begin": torch.tensor([[0, 1]])}, r"begin must have shape \[\*\], got \[1, 2\]"),
        ({"begin": torch.tensor([0, 1]).int()}, "begin must be Long, got Int"),
        ({"begin": torch.tensor([-1, 1])}, r"begin\[0\] is -1, allowed are 0 to 6 \(capacity\)"),
        ({"end": torch.tensor([6, 7])}, r"end\[1\] is 7, allowed are 0 to 6 \(capacity\)"),
        ({"end": torch.tensor([6])}, r"end must have shape \[2\], got \[1\]"),
        ({"capacity": 2**62}, "slots of capacity 4611686018427387904 have more positions"),
        ({"capacity": -1}, "capacity must not be negative, got -1"),
        ({"sigma": 0.0}, "sigma must be positive and finite, got 0"),
        ({"sigma": -1.0}, "sigma must be positive and finite, got -1"),
        ({"sigma": math.inf}, "sigma must be positive and finite, got inf"),
        ({"sigma": math.nan}, "sigma must be positive and finite, got nan"),
    ],
)
def test_wrong_arguments_are_refused(change, message):
    call = {
        "known": torch.zeros(12).bool(),
        "begin": torch.tensor([0, 1]),
        "end": torch.tensor([6, 6]),
        "capacity": 6,
        "sigma": 10.0,
    }
    with pytest.raises(RuntimeError, match=rf"density: .*{message}"):
        ops.density(**(call | change))


def region(known: torch.Tensor, sigma: float = 10.0) -> torch.Tensor:
    """Density of one slot whose region is all of it."""
    begin = torch.tensor([0], device=known.device)
    return ops.density(known, begin, begin + len(known), len(known), sigma)


def test_equals_a_convolution(device):
    known = torch.rand(50, generator=torch.Generator().manual_seed(0)) < 0.5
    around = torch.cat([torch.ones(50), known.float(), known[-1:].float().expand(50)])
    window = torch.exp(-(torch.arange(-99.0, 100.0) ** 2) / (2 * 10.0**2))
    sums = [
        F.conv1d(values[None, None], window[None, None], padding=99)[0, 0, 50:100]
        for values in (around, torch.ones(150))
    ]
    torch.testing.assert_close(
        region(known.to(device)).cpu(), sums[0] / sums[1], rtol=1e-5, atol=1e-6
    )


def test_positions_outside_of_the_region_are_zero_and_not_read(device):
    known = torch.rand(40, device=device) < 0.5
    begin, end = torch.tensor([10], device=device), torch.tensor([30], device=device)
    result = ops.density(known, begin, end, 40, 10.0)
    assert result[:10].eq(0).all() and result[30:].eq(0).all() and result[10:30].gt(0).all()
    known[:10], known[30:] = ~known[:10], ~known[30:]
    assert torch.equal(ops.density(known, begin, end, 40, 10.0), result)


def test_where_everything_is_known_the_density_is_one(device):
    assert region(torch.ones(33, dtype=torch.bool, device=device)).eq(1).all()


def test_density_falls_away_from_what_is_known(device):
    """All masked: the left neighbours count as known, those to the right do not."""
    result = region(torch.zeros(64, dtype=torch.bool, device=device))
    assert (result.diff() < 0).all() and 0.4 < result[0] < 0.6


def test_the_last_position_speaks_for_what_is_behind(device):
    known = torch.zeros(30, dtype=torch.bool, device=device)
    before = region(known)
    known[-1] = True
    assert (region(known) > before).all() and region(known)[-1] > 0.5


def test_one_position(device):
    for value in (False, True):
        result = region(torch.tensor([value], device=device), sigma=1e6)
        torch.testing.assert_close(result.cpu(), torch.tensor([1.0 if value else 1 / 3]))


@pytest.mark.parametrize("sigma", [1e-200, 1e-3, 1e30])
def test_extreme_widths(sigma, device):
    known = torch.rand(20, device=device) < 0.5
    result = region(known, sigma)
    if sigma < 1:
        assert torch.equal(result, known.float())
    else:
        mean = (20 + int(known.sum()) + 20 * int(known[-1])) / 60
        torch.testing.assert_close(result.cpu(), torch.full((20,), mean))


@settings(max_examples=50, deadline=None)
@given(
    spans=st.lists(st.tuples(st.integers(0, 90), st.integers(0, 90)), max_size=4),
    sigma=st.floats(0.1, 100.0),
    seed=st.integers(0, 2**31 - 1),
)
def test_any_regions_match_the_reference(spans, sigma, seed):
    torch.manual_seed(seed)
    known = torch.rand(len(spans) * 90) < 0.5
    begin, end = torch.tensor(spans, dtype=torch.int64).reshape(-1, 2).T.contiguous()
    result = ops.density(known, begin, end, 90, sigma)
    torch.testing.assert_close(
        result, reference.density(known, begin, end, 90, sigma), rtol=1e-6, atol=1e-7
    )
    for slot in range(len(spans)):
        part = slice(slot * 90, (slot + 1) * 90)
        alone = ops.density(known[part], begin[slot : slot + 1], end[slot : slot + 1], 90, sigma)
        assert torch.equal(alone, result[part])
