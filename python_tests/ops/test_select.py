"""What is particular about select_rows: ties, values that are no numbers, limits, errors."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlmcache_cuda.ops import select_rows

NAN, INF = float("nan"), float("inf")


def vector(*values: int, device: str = "cpu") -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64, device=device)


def expected_places(score: list[float], offsets: list[int], k: list[int], largest: bool):
    """Entries that each slot selects, from the definition."""
    slots = []
    for first, behind, count in zip(offsets, offsets[1:], k, strict=False):

        def rank(entry: int) -> tuple:
            value = score[entry]
            if math.isnan(value):
                return (0, 0.0, entry)
            return (1, -value if largest else value, entry)

        slots.append(sorted(sorted(range(first, behind), key=rank)[: max(0, count)]))
    return slots


SCORES = st.one_of(
    st.floats(width=32), st.sampled_from([0.0, -0.0, 1.0, -1.0, INF, -INF, NAN]), st.just(0.5)
)


@settings(max_examples=200, deadline=None)
@given(
    slots=st.lists(st.lists(SCORES, max_size=40), max_size=4),
    data=st.data(),
    largest=st.booleans(),
    spare=st.integers(0, 3),
    unused=st.integers(0, 3),
)
def test_follows_the_definition(slots, data, largest, spare, unused):
    k = [data.draw(st.integers(-1, len(slot) + 2)) for slot in slots]
    score = [value for slot in slots for value in slot]
    offsets = [0]
    for slot in slots:
        offsets.append(offsets[-1] + len(slot))
    expected = expected_places(score, offsets, k, largest)
    flat = [place for places in expected for place in places]
    rows = [7 * entry for entry in range(len(score))] + [-1] * unused
    row_index, places, cu_rows = select_rows(
        torch.tensor(score + [NAN] * unused, dtype=torch.float32),
        vector(*rows),
        vector(*offsets),
        vector(*k),
        len(flat) + spare,
        largest,
    )
    assert places.tolist() == flat + [-1] * spare
    assert row_index.tolist() == [rows[place] for place in flat] + [-1] * spare
    lengths = [len(chosen) for chosen in expected]
    assert cu_rows.tolist() == [sum(lengths[:slot]) for slot in range(len(lengths) + 1)]


@pytest.mark.parametrize("largest", [True, False])
def test_ties_take_the_first_entries(largest, device):
    score = torch.zeros(5000, device=device)
    score[2500] = 1.0 if largest else -1.0
    rows = torch.arange(5000, device=device)
    arguments = (vector(0, 5000, device=device), vector(100, device=device), 100, largest)
    row_index, places, _ = select_rows(score, rows, *arguments)
    assert row_index.tolist() == [*range(99), 2500]
    assert torch.equal(places, row_index)


@pytest.mark.parametrize("largest", [True, False])
def test_many_slots_of_thousands(largest, device):
    generator = torch.Generator().manual_seed(1)
    counts = torch.randint(0, 4000, (16,), generator=generator)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    total = int(offsets[-1])
    # Drifts: mostly tiny, all with the same leading bits.
    score = torch.rand(total, generator=generator) * 1e-3 + 0.5
    k = torch.randint(0, 1000, (16,), generator=generator)
    rows = torch.arange(total) * 2
    _, places, cu_rows = select_rows(
        score.to(device), rows.to(device), offsets.to(device), k.to(device), 16000, largest
    )
    expected = expected_places(score.tolist(), offsets.tolist(), k.tolist(), largest)
    flat = [place for chosen in expected for place in chosen]
    assert places[: len(flat)].tolist() == flat and bool((places[len(flat) :] == -1).all())
    assert int(cu_rows[-1]) == len(flat)


def test_wrong_rows_are_selected_first(device):
    score = torch.tensor([3.0, NAN, 1.0, -NAN, 2.0], device=device)
    rows, offsets = vector(4, 5, 6, 7, 8, device=device), vector(0, 5, device=device)
    for largest, third in ((True, 4), (False, 6)):
        selected = select_rows(score, rows, offsets, vector(3, device=device), 3, largest)[0]
        assert selected.tolist() == sorted([5, 7, third])


def test_too_many_rows(device):
    score = torch.arange(6.0, device=device)
    rows = vector(0, 1, 2, 10, 11, 12, device=device)
    arguments = (score, rows, vector(0, 3, 6, device=device), vector(2, 2, device=device))
    if device == "cpu":
        with pytest.raises(RuntimeError, match=r"4 rows do not fit into max_rows = 3"):
            select_rows(*arguments, 3)
    else:  # without a read-back there is no error: the list ends early and says so
        row_index, places, cu_rows = select_rows(*arguments, 3)
        assert row_index.tolist() == [1, 2, 11] and places.tolist() == [1, 2, 4]
        assert cu_rows.tolist() == [0, 2, 3]


ERRORS = {
    r"score must have shape \[\*\], got \[2, 2\]": {"score": torch.zeros(2, 2)},
    "score must be Float, got Half": {"score": torch.zeros(4).half()},
    "score must be contiguous": {"score": torch.zeros(8)[::2]},
    r"row_index must have shape \[4\], got \[3\]": {"row_index": vector(1, 2, 3)},
    "row_index must be Long, got Int": {"row_index": vector(1, 2, 3, 4).int()},
    "row_index must be contiguous": {"row_index": torch.arange(8)[::2]},
    "cu_rows must be Long": {"cu_rows": torch.zeros(3)},
    "cu_rows must have one entry more than there are slots": {"cu_rows": vector()},
    r"cu_rows\[0\] is 1, it must be 0": {"cu_rows": vector(1, 2, 3)},
    r"cu_rows\[2\] is 1, less than the entry before it, 2": {"cu_rows": vector(0, 2, 1)},
    r"cu_rows\[2\] is 5, but the list has 4 entries": {"cu_rows": vector(0, 2, 5)},
    r"k must have shape \[2\], got \[3\]": {"k": vector(1, 2, 3)},
    "k must be Long": {"k": torch.zeros(2)},
    "max_rows must not be negative, got -1": {"max_rows": -1},
}


@pytest.mark.parametrize("message", ERRORS)
def test_refuses(message):
    arguments = {
        "score": torch.arange(4.0),
        "row_index": vector(1, 3, 8, 9),
        "cu_rows": vector(0, 2, 4),
        "k": vector(1, 1),
        "max_rows": 2,
    }
    with pytest.raises(RuntimeError, match="select_rows: " + message):
        select_rows(**{**arguments, **ERRORS[message]})
