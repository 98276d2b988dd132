"""Philox and uniform_rows beyond the samples."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlmcache_cuda import ops, reference
from dlmcache_cuda.reference.random import draw, gumbel_noise, philox, uniform

# kat_vectors of Random123, philox4x32 with 10 rounds.
KNOWN_ANSWERS = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN_ANSWERS)
def test_philox_known_answers(counter, key, words):
    assert philox(torch.tensor(counter), torch.tensor(key)).tolist() == words


def call(device="cpu", **changes):
    arguments = {
        "row_index": torch.tensor([0, 5, 11, -1], device=device),
        "capacity": 6,
        "seeds": torch.tensor([1, 2], device=device),
        "ticks": torch.tensor([3, 4], device=device),
        "stream": 1,
    }
    return ops.uniform_rows(**{**arguments, **changes})


def test_uniform_rows_equals_the_twin_bit_for_bit(device):
    rows = torch.randint(0, 3 * 500, (4001,))
    seeds, ticks = torch.tensor([2**63 - 1, -(2**63), 17]), torch.tensor([0, -1, 2**40 + 9])
    arguments = (rows, 500, seeds, ticks, 2)
    result = ops.uniform_rows(*(a.to(device) if torch.is_tensor(a) else a for a in arguments))
    assert torch.equal(result.cpu(), reference.uniform_rows(*arguments))


@given(
    seed=st.integers(-(2**63), 2**63 - 1),
    tick=st.integers(-(2**63), 2**63 - 1),
    slot=st.integers(0, 4),
    position=st.integers(0, 999),
    stream=st.integers(1, 2**32 - 1),
)
@settings(deadline=None, max_examples=50)
def test_uniform_rows_depends_on_the_sequence_only(seed, tick, slot, position, stream):
    seeds, ticks = torch.arange(5), torch.arange(5) + 100
    seeds[slot], ticks[slot] = seed, tick
    rows = torch.tensor([slot * 1000 + position, -1])
    result = ops.uniform_rows(rows, 1000, seeds, ticks, stream)
    own = slice(slot, slot + 1)
    alone = ops.uniform_rows(rows[:1] % 1000, 1000, seeds[own], ticks[own], stream)
    twin = uniform(torch.tensor([seed]), torch.tensor([tick]), torch.tensor([position]), stream)
    assert result[0] == alone[0] == twin[0]
    assert 0 < result[0] < 1 and result[1] == 0


def test_uniform_rows_is_uniform_and_uncorrelated(device):
    rows = torch.arange(40_000, device=device)
    seeds, ticks = torch.tensor([11], device=device), torch.tensor([5], device=device)
    numbers = ops.uniform_rows(rows, 40_000, seeds, ticks, 1).cpu().double()
    counts = torch.histc(numbers, 100, 0, 1)
    chi_square = ((counts - 400) ** 2 / 400).sum()
    assert chi_square < 99 + 5 * (2 * 99) ** 0.5
    others = ops.uniform_rows(rows, 40_000, seeds, ticks + 1, 1).cpu().double()
    for a, b in ((numbers[1:], numbers[:-1]), (numbers, others)):
        assert torch.corrcoef(torch.stack((a, b)))[0, 1].abs() < 5 / 40_000**0.5


def test_uniform_never_reaches_one():
    seeds = torch.arange(100_000)
    numbers = uniform(seeds, torch.zeros_like(seeds), torch.zeros_like(seeds), 1)
    assert numbers.max() <= 1 - 2**-24 and numbers.min() > 0


def test_streams_differ_and_gumbel_noise_uses_stream_zero():
    one = torch.tensor([1])
    words = draw(one, one, one, 0, torch.tensor([0]))[0]
    u = (words.double() + 0.5) / 2**32
    expected = -torch.log(-torch.log(u))
    torch.testing.assert_close(gumbel_noise(one, one, one, 4)[0], expected)
    assert not torch.equal(words, draw(one, one, one, 1, torch.tensor([0]))[0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"row_index": torch.zeros(2, 2, dtype=torch.long)},
            r"row_index must have shape \[\*\], got",
        ),
        ({"row_index": torch.zeros(2)}, "row_index must be Long, got Float"),
        ({"seeds": torch.zeros(2, dtype=torch.int32)}, "seeds must be Long, got Int"),
        ({"ticks": torch.zeros(3, dtype=torch.long)}, r"ticks must have shape \[2\], got \[3\]"),
        ({"capacity": 0}, "capacity must be at least 1, got 0"),
        ({"stream": 0}, "stream must be from 1 to 4294967295, got 0"),
        ({"stream": 2**32}, "stream must be from 1 to 4294967295, got 4294967296"),
        (
            {"row_index": torch.tensor([12])},
            r"row_index\[0\] is 12, allowed are -1 \(unused\) to 11",
        ),
        ({"row_index": torch.tensor([0, -2])}, r"row_index\[1\] is -2"),
        ({"row_index": torch.arange(8)[::2]}, "row_index must be contiguous"),
    ],
)
def test_uniform_rows_errors(changes, message):
    with pytest.raises(RuntimeError, match="uniform_rows: " + message):
        call(**changes)
