"""Row lists from ranges."""

from __future__ import annotations

import pytest
import torch

from dlmcache_cuda.cache import RowList


def test_from_ranges(device):
    rows = RowList.from_ranges([0, 2, 5, 1], [3, 2, 6, 4], 10, device)
    assert rows.row_index.tolist() == [0, 1, 2, 25, 31, 32, 33]
    assert rows.cu_rows.tolist() == [0, 3, 3, 4, 7]
    assert rows.counts == (3, 0, 1, 3) and rows.max_rows == 7 and rows.num_slots == 4
    assert rows.row_index.device.type == device


@pytest.mark.parametrize("begin, end", [([], []), ([4], [4]), ([0, 10], [0, 10])])
def test_empty(begin, end):
    rows = RowList.from_ranges(begin, end, 10)
    assert rows.max_rows == 0 and rows.row_index.shape == (0,)
    assert rows.cu_rows.tolist() == [0] * (len(begin) + 1)


def test_bad_ranges():
    with pytest.raises(ValueError, match="one entry per slot, got 1 and 2"):
        RowList.from_ranges([0], [1, 2], 10)
    for begin, end in ((-1, 2), (3, 2), (0, 11)):
        with pytest.raises(ValueError, match=rf"slot 1 has the range \[{begin}, {end}\)"):
            RowList.from_ranges([0, begin], [0, end], 10)


def bounds(*values: int) -> torch.Tensor:
    return torch.tensor(values)


def test_from_bounds_knows_what_the_host_was_told():
    begin, end = bounds(0, 2), bounds(2, 5)
    told = RowList.from_bounds(begin, end, 6, 5, counts=(2, 3))
    assert told.row_index.tolist() == [0, 1, 8, 9, 10]
    assert told.known_counts == (2, 3) and not told.may_have_unused
    longer = RowList.from_bounds(begin, end, 6, 7, counts=(2, 3))
    assert longer.row_index.tolist() == [0, 1, 8, 9, 10, -1, -1]
    assert longer.known_counts == (2, 3) and longer.may_have_unused
    for counts in (None, (2, None)):
        untold = RowList.from_bounds(begin, end, 6, 5, counts=counts)
        assert untold.known_counts is None and untold.may_have_unused


def test_from_bounds_trims_where_no_length_was_asked():
    flags = torch.zeros(12, dtype=torch.bool)
    flags[[0, 1, 3, 4, 8, 10, 11]] = True
    rows = RowList.from_bounds(bounds(1, 0), bounds(6, 5), 6, None, flags=flags, limit=bounds(2, 5))
    assert rows.row_index.tolist() == [1, 3, 8, 10]
    assert rows.counts == (2, 2) and not rows.may_have_unused


def test_shifted_rows_keep_their_places():
    rows = RowList.from_bounds(bounds(1, 2), bounds(3, 3), 6, 5, counts=(2, 1))
    assert rows.shifted(0) is rows
    shifted = rows.shifted(1)
    assert shifted.row_index.tolist() == [0, 1, 7, -1, -1]
    assert shifted.cu_rows is rows.cu_rows and shifted.counts == rows.counts


def test_places_belong_to_the_list_that_is_asked_about():
    few = RowList.from_bounds(bounds(2, 0), bounds(4, 1), 6, 4, counts=(2, 1))
    some = RowList.from_ranges([1, 0], [6, 6], 6)
    others = RowList.from_ranges([3, 0], [6, 0], 6)
    for _ in range(2):
        assert few.places_in(some).tolist() == [1, 2, 5, -1]
        assert few.places_in(some) is few.places_in(some)
        assert few.places_in(others).tolist() == [-1, 0, -1, -1]
