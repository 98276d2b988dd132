"""Row lists from ranges."""

from __future__ import annotations

import pytest

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
