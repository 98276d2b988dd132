"""What is particular about cosine_drift_: exact zeros, accuracy where it matters, the update."""

from __future__ import annotations

import pytest
import torch

from dlmcache_cuda.ops import cosine_drift_

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 3, 8, 17, 128, 1031, 4096])
def test_equal_rows_have_not_moved(dtype, width, device):
    signal = torch.randn(20, width).to(device, dtype)
    index = torch.arange(20, device=device)
    assert torch.equal(cosine_drift_(signal, signal.clone(), index), torch.zeros(20, device=device))


def test_doubling_a_row_does_not_move_it(device):
    signal = torch.randn(20, 131, device=device)
    drift = cosine_drift_(2 * signal, signal.clone(), torch.arange(20, device=device))
    assert torch.equal(drift, torch.zeros_like(drift))


def test_small_drifts_keep_their_digits(device):
    # 1 - cosine in fp32 would have an error of 1e-7, a hundred times the drift itself.
    generator = torch.Generator().manual_seed(3)
    reference = torch.randn(50, 256, generator=generator)
    signal = reference + 3e-5 * torch.randn(50, 256, generator=generator)
    exact = 1 - torch.cosine_similarity(signal.double(), reference.double(), dim=-1)
    index = torch.arange(50, device=device)
    drift = cosine_drift_(signal.to(device), reference.to(device), index)
    assert exact.max() < 2e-9
    torch.testing.assert_close(drift.cpu().double(), exact, rtol=1e-4, atol=1e-15)


@pytest.mark.parametrize("columns", [5, 64])
def test_what_rounding_leaves_of_equal_rows_is_no_drift(columns, device):
    """The same product with other columns and rows beside it, and in another order of its terms."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(40, 512, generator=generator).to(device)
    weight = torch.randn(columns, 512, generator=generator).to(device)
    order = torch.randperm(512, generator=generator).to(device)
    other = x[:, order] @ weight[:, order].T
    assert not torch.equal(x @ weight.T, other)
    drift = cosine_drift_(x @ weight.T, other, torch.arange(40, device=device))
    assert torch.equal(drift, torch.zeros_like(drift))


@pytest.mark.parametrize(("moved", "least"), [(1e-6, 0.0), (4e-6, 7e-12)])
def test_where_drift_begins(moved, least, device):
    reference = torch.zeros(1, 9, device=device)
    reference[0, 0] = 1
    signal = reference.clone()
    signal[0, 5] = moved
    drift = cosine_drift_(signal, reference, torch.zeros(1, dtype=torch.int64, device=device))
    assert least <= drift.item() <= 1.2 * least


def test_opposite_and_orthogonal_rows(device):
    reference = torch.eye(3, 8, device=device)
    signal = torch.stack([-reference[0], reference[2], 5 * reference[2]])
    drift = cosine_drift_(signal, reference, torch.arange(3, device=device))
    assert drift.tolist() == [2.0, 1.0, 0.0]


def test_zero_rows(device):
    zero, one = torch.zeros(1, 5, device=device), torch.ones(1, 5, device=device)
    index = torch.zeros(1, dtype=torch.int64, device=device)
    assert cosine_drift_(zero, one.clone(), index).item() == 1.0
    assert cosine_drift_(one, zero.clone(), index).item() == 1.0
    assert cosine_drift_(zero, zero.clone(), index).item() == 0.0


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_what_is_not_finite_is_reported(wrong, device):
    signal, reference = torch.randn(2, 33, device=device), torch.randn(2, 33, device=device)
    signal[0, 32] = wrong
    drift = cosine_drift_(signal, reference, torch.arange(2, device=device))
    assert drift.isnan().tolist() == [True, False]
    assert cosine_drift_(reference, signal, torch.arange(2, device=device))[0].isnan()


@pytest.mark.parametrize("dtype", DTYPES)
def test_update_replaces_listed_rows_only(dtype, device):
    reference = torch.randn(9, 40).to(device, dtype)
    signal = torch.randn(4, 40).to(device, dtype)
    index = torch.tensor([1, 5, 8, -1], device=device)
    kept, replaced = reference.clone(), reference.clone()
    drift = cosine_drift_(signal, kept, index, update=False)
    assert torch.equal(kept, reference)
    assert torch.equal(cosine_drift_(signal, replaced, index), drift)
    expected = reference.clone()
    expected[index[:3]] = signal[:3]
    assert torch.equal(replaced, expected)
    assert torch.equal(
        cosine_drift_(signal, replaced, index), torch.zeros_like(drift)
    )  # now they are equal


def test_unused_entries_read_nothing(device):
    signal = torch.full((2, 64), float("nan"), device=device)
    reference = torch.ones(1, 64, device=device)
    drift = cosine_drift_(signal, reference, torch.full((2,), -1, device=device))
    assert drift.tolist() == [0.0, 0.0] and bool((reference == 1).all())


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_does_not_depend_on_the_others(dtype, device):
    signal, reference = (torch.randn(200, 771).to(device, dtype) for _ in range(2))
    index = torch.arange(200, device=device)
    drift = cosine_drift_(signal, reference, index, False)
    assert torch.equal(drift, cosine_drift_(signal, reference, index, False))
    one = cosine_drift_(signal[123:124], reference, index[123:124], False)
    assert torch.equal(drift[123:124], one)


SIGNAL, REFERENCE, INDEX = torch.zeros(2, 6), torch.zeros(4, 6), torch.tensor([0, 3])


@pytest.mark.parametrize(
    ("signal", "reference", "index", "message"),
    [
        (SIGNAL[0], REFERENCE, INDEX, r"signal must have shape \[\*, \*\], got \[6\]"),
        (SIGNAL, REFERENCE[:, :5], INDEX, r"reference must have shape \[\*, 6\], got \[4, 5\]"),
        (SIGNAL, REFERENCE, INDEX[:1], r"row_index must have shape \[2\], got \[1\]"),
        (SIGNAL.double(), REFERENCE, INDEX, r"signal must be float32, float16 or bfloat16, got D"),
        (SIGNAL, REFERENCE.half(), INDEX, r"reference must be Float, got Half"),
        (SIGNAL, REFERENCE, INDEX.int(), r"row_index must be Long, got Int"),
        (torch.zeros(6, 2).t(), REFERENCE, INDEX, r"signal must be contiguous in its last dim"),
        (SIGNAL, torch.zeros(6, 4).t(), INDEX, r"reference must be contiguous"),
        (SIGNAL, REFERENCE, torch.arange(4)[::2], r"row_index must be contiguous"),
        (SIGNAL, REFERENCE, INDEX + 1, r"row_index\[1\] is 4, allowed are -1 \(unused\) to 3"),
        (SIGNAL, REFERENCE, INDEX - 2, r"row_index\[0\] is -2, allowed are -1 \(unused\) to 3"),
    ],
)
def test_rejects(signal, reference, index, message):
    with pytest.raises(RuntimeError, match="cosine_drift_: " + message):
        cosine_drift_(signal, reference, index)
