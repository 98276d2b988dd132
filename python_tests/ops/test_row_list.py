"""What is particular to the row lists: ranges, limits, errors, and a list-comprehension oracle."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlmcache_cuda.ops import build_rows, find_rows


def vector(*values: int, device: str = "cpu") -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int64, device=device)


def expected_rows(begin, end, capacity, flags=None, limit=None) -> list[list[int]]:
    """Rows of every slot, from the definition."""
    slots = []
    for slot in range(len(begin)):
        rows = [slot * capacity + p for p in range(capacity) if begin[slot] <= p < end[slot]]
        if flags is not None:
            rows = [row for row in rows if flags[row]]
        if limit is not None:
            rows = rows[: max(0, limit[slot])]
        slots.append(rows)
    return slots


@st.composite
def row_requests(draw):
    num_slots = draw(st.integers(0, 5))
    capacity = draw(st.integers(1, 70))

    def per_slot(low: int, high: int) -> list[int]:
        size = {"min_size": num_slots, "max_size": num_slots}
        return draw(st.lists(st.integers(low, high), **size))

    size = num_slots * capacity
    flags = draw(st.none() | st.lists(st.booleans(), min_size=size, max_size=size))
    limit = per_slot(-2, capacity + 2) if draw(st.booleans()) else None
    return per_slot(0, capacity), per_slot(0, capacity), capacity, flags, limit


@settings(max_examples=150, deadline=None)
@given(request=row_requests(), spare=st.integers(0, 9))
def test_build_and_find_follow_the_definition(request, spare):
    begin, end, capacity, flags, limit = request
    expected = expected_rows(*request)
    flat = [row for rows in expected for row in rows]
    row_index, cu_rows = build_rows(
        vector(*begin),
        vector(*end),
        capacity,
        len(flat) + spare,
        None if flags is None else torch.tensor(flags, dtype=torch.bool),
        None if limit is None else vector(*limit),
    )
    assert row_index.tolist() == flat + [-1] * spare
    offsets = [0]
    for rows in expected:
        offsets.append(offsets[-1] + len(rows))
    assert cu_rows.tolist() == offsets

    query = [-1, *range(len(begin) * capacity)][::-1]
    places = {row: place for place, row in enumerate(flat)}
    found = find_rows(row_index, cu_rows, vector(*query), capacity)
    assert found.tolist() == [places.get(row, -1) for row in query]


def test_canvas_of_many_slots(device):
    # 64 slots of 8192 positions, sizes at which prefixes and tiles matter.
    num_slots, capacity = 64, 8192
    generator = torch.Generator().manual_seed(1)
    flags = torch.rand(num_slots * capacity, generator=generator) < 0.3
    begin = torch.randint(0, capacity, (num_slots,), generator=generator)
    end = torch.randint(0, capacity + 1, (num_slots,), generator=generator)
    limit = torch.randint(0, 3000, (num_slots,), generator=generator)
    arguments = (begin.to(device), end.to(device), capacity, num_slots * capacity)
    row_index, cu_rows = build_rows(*arguments, flags.to(device), limit.to(device))
    expected = []
    for slot in range(num_slots):
        part = flags[slot * capacity + begin[slot] : slot * capacity + end[slot]]
        rows = part.nonzero().flatten()[: limit[slot]] + slot * capacity + begin[slot]
        assert torch.equal(row_index[cu_rows[slot] : cu_rows[slot + 1]].cpu(), rows), slot
        expected.append(rows)
    assert (row_index[cu_rows[-1] :] == -1).all()
    listed = torch.cat(expected)
    order = torch.randperm(len(listed), generator=generator)
    found = find_rows(row_index, cu_rows, listed[order].to(device), capacity)
    assert torch.equal(found.cpu(), order)


def test_too_many_rows(device):
    arguments = (vector(0, 2, device=device), vector(3, 5, device=device), 5)
    assert build_rows(*arguments, 6)[0].tolist() == [0, 1, 2, 7, 8, 9]
    if device == "cpu":
        with pytest.raises(RuntimeError, match=r"build_rows: 6 rows do not fit into max_rows = 5"):
            build_rows(*arguments, 5)
    else:  # without a read-back there is no error: the list ends early and says so
        row_index, cu_rows = build_rows(*arguments, 4)
        assert row_index.tolist() == [0, 1, 2, 7] and cu_rows.tolist() == [0, 3, 4]
        row_index, cu_rows = build_rows(*arguments, 2)
        assert row_index.tolist() == [0, 1] and cu_rows.tolist() == [0, 2, 2]


BUILD_ERRORS = {
    "begin must have shape": {"begin": torch.zeros(2, 2, dtype=torch.int64)},
    "begin must be Long, got Int": {"begin": torch.zeros(2, dtype=torch.int32)},
    "end must have shape": {"end": vector(1)},
    "end must be Long": {"end": torch.zeros(2)},
    "end must be contiguous": {"end": vector(1, 2, 3, 4)[::2]},
    r"begin\[1\] is -1, allowed are 0 to 6": {"begin": vector(0, -1)},
    r"end\[0\] is 7, allowed are 0 to 6 \(capacity\)": {"end": vector(7, 1)},
    "capacity must be positive, got 0": {"capacity": 0},
    r"\d slots of capacity 4611686018427387904 have more positions": {"capacity": 2**62},
    "max_rows must not be negative, got -1": {"max_rows": -1},
    r"flags must have shape \[12\], got \[11\]": {"flags": torch.ones(11, dtype=torch.bool)},
    "flags must be Bool, got Byte": {"flags": torch.ones(12, dtype=torch.uint8)},
    "flags must be contiguous": {"flags": torch.ones(24, dtype=torch.bool)[::2]},
    r"limit must have shape \[2\], got \[3\]": {"limit": vector(1, 2, 3)},
}


@pytest.mark.parametrize("message", BUILD_ERRORS)
def test_build_rows_refuses(message):
    arguments = {"begin": vector(0, 1), "end": vector(3, 4), "capacity": 6, "max_rows": 12}
    with pytest.raises(RuntimeError, match="build_rows: " + message):
        build_rows(**{**arguments, **BUILD_ERRORS[message]})


FIND_ERRORS = {
    "row_index must have shape": {"row_index": vector(1).view(1, 1)},
    "row_index must be Long": {"row_index": torch.zeros(3)},
    "cu_rows must be Long": {"cu_rows": torch.zeros(3)},
    "cu_rows must have one entry more than there are slots": {"cu_rows": vector()},
    r"cu_rows\[0\] is 1, it must be 0": {"cu_rows": vector(1, 2, 3)},
    r"cu_rows\[2\] is 1, less than the entry before it, 2": {"cu_rows": vector(0, 2, 1)},
    r"cu_rows\[2\] is 4, but the list has 3 entries": {"cu_rows": vector(0, 2, 4)},
    "query must have shape": {"query": vector(1, 2).view(1, 2)},
    r"query\[1\] is 12, allowed are -1 \(unused\) to 11": {"query": vector(3, 12)},
    r"query\[0\] is -2, allowed are -1": {"query": vector(-2)},
    "capacity must be positive, got -6": {"capacity": -6},
    r"\d slots of capacity 4611686018427387904 have more positions": {"capacity": 2**62},
}


@pytest.mark.parametrize("message", FIND_ERRORS)
def test_find_rows_refuses(message):
    arguments = {
        "row_index": vector(1, 3, 8),
        "cu_rows": vector(0, 2, 3),
        "query": vector(1),
        "capacity": 6,
    }
    with pytest.raises(RuntimeError, match="find_rows: " + message):
        find_rows(**{**arguments, **FIND_ERRORS[message]})
