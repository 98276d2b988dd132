"""What is particular about copies of rows: bytes, untouched rows, messages."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlmcache_cuda.ops import gather_rows, scatter_rows_


def test_copies_bits_not_values(device):
    # NaN with a payload and negative zero survive only a copy of bytes.
    bits = torch.tensor([[0x7FC01234, -0x80000000], [0x7F812345, 1]], dtype=torch.int32)
    src = bits.view(torch.float32).to(device)
    gathered = gather_rows(src, torch.tensor([1, 0, -1], device=device))
    expected = torch.cat((bits[[1, 0]], torch.zeros(1, 2, dtype=torch.int32)))
    assert torch.equal(gathered.view(torch.int32).cpu(), expected)

    dst = torch.ones(3, 2, device=device)
    scatter_rows_(dst, src, torch.tensor([2, 0], device=device))
    assert torch.equal(dst.view(torch.int32).cpu()[[2, 0]], bits)
    assert torch.equal(dst[1].cpu(), torch.ones(2))


@pytest.mark.parametrize("dtype", [torch.complex128, torch.uint8, torch.float64, torch.int16])
def test_any_dtype(dtype, device):
    src = (torch.randn(6, 5) * 50).to(dtype).to(device)
    index = torch.tensor([4, 1, -1], device=device)
    assert torch.equal(gather_rows(src, index)[:2], src[[4, 1]])


def test_unaligned_rows(device):
    # A view that starts between two 16-byte words must not be copied in 16-byte pieces.
    for offset in (1, 2, 4, 8):
        buffer = torch.arange(offset + 10 * 48, device=device).to(torch.uint8)
        src = buffer[offset:].view(10, 48)
        index = torch.tensor([7, 0, 9], device=device)
        assert torch.equal(gather_rows(src, index), src[index])
        rows = torch.randint(0, 255, (3, 48), dtype=torch.uint8, device=device)
        scatter_rows_(src, rows, index)
        assert torch.equal(src[index], rows)


@settings(max_examples=30, deadline=None)
@given(data=st.data(), num_rows=st.integers(1, 40), width=st.integers(0, 40))
def test_scatter_then_gather_is_the_identity(data, num_rows, width):
    used = data.draw(st.lists(st.integers(0, num_rows - 1), unique=True).map(sorted))
    index = torch.tensor(used + [-1] * data.draw(st.integers(0, 3)), dtype=torch.int64)
    dst = torch.randn(num_rows, width)
    before = dst.clone()
    rows = torch.randn(len(index), width)
    scatter_rows_(dst, rows, index)
    rows[len(used) :] = 0
    assert torch.equal(gather_rows(dst, index), rows)
    others = torch.ones(num_rows, dtype=torch.bool)
    others[used] = False
    assert torch.equal(dst[others], before[others])


def test_many_wide_rows_over_all_threads():
    src = torch.randn(600, 1024)
    index = torch.randperm(600)
    assert torch.equal(gather_rows(src, index), src[index])
    dst = torch.empty_like(src)
    scatter_rows_(dst, src, index)
    assert torch.equal(dst[index], src)


SRC = torch.zeros(4, 6)
INDEX = torch.tensor([0, 3])


@pytest.mark.parametrize(
    ("src", "index", "message"),
    [
        (torch.tensor(1.0), INDEX, r"gather_rows: src must have at least one dimension"),
        (SRC, INDEX.view(1, 2), r"gather_rows: row_index must have shape \[\*\], got \[1, 2\]"),
        (SRC, INDEX.int(), r"gather_rows: row_index must be Long, got Int"),
        (SRC.t(), INDEX, r"gather_rows: src must be contiguous"),
        (SRC, torch.arange(4)[::2], r"gather_rows: row_index must be contiguous"),
        (SRC, torch.tensor([0, 4]), r"row_index\[1\] is 4, allowed are -1 \(unused\) to 3"),
        (SRC, torch.tensor([-2]), r"row_index\[0\] is -2, allowed are -1 \(unused\) to 3"),
        (SRC[:0], torch.tensor([0]), r"row_index\[0\] is 0, allowed are -1 \(unused\) to -1"),
    ],
)
def test_gather_rejects(src, index, message):
    with pytest.raises(RuntimeError, match=message):
        gather_rows(src, index)


@pytest.mark.parametrize(
    ("dst", "rows", "index", "message"),
    [
        (torch.tensor(1.0), SRC[:2], INDEX, r"scatter_rows_: dst must have at least one dimension"),
        (SRC, SRC[:2, :5], INDEX, r"rows have shape \[2, 5\], dst has shape \[4, 6\]"),
        (SRC, SRC[0], INDEX, r"rows have shape \[6\], dst has shape \[4, 6\]"),
        (SRC, SRC[:3], INDEX, r"row_index must have shape \[3\], got \[2\]"),
        (SRC, SRC[:2].double(), INDEX, r"rows must be Float, got Double"),
        (SRC, SRC[:2], INDEX.int(), r"row_index must be Long, got Int"),
        (torch.zeros(6, 4).t(), SRC[:2], INDEX, r"dst must be contiguous"),
        (SRC, torch.zeros(6, 2).t(), INDEX, r"scatter_rows_: rows must be contiguous"),
        (SRC, SRC[:2], INDEX + 1, r"row_index\[1\] is 4, allowed are -1 \(unused\) to 3"),
    ],
)
def test_scatter_rejects(dst, rows, index, message):
    with pytest.raises(RuntimeError, match=message):
        scatter_rows_(dst, rows, index)
