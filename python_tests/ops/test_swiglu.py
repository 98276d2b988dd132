"""What is particular about swiglu: rounding order, extremes, messages."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import silu

from dlmcache_cuda.ops import swiglu

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounds_like_torch(dtype, device):
    # Every gate whose product is finite: with silu rounded before the product nearly all results
    # are the same bits as torch's.
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    gate = bits.view(dtype)
    gate = gate[gate.abs() < torch.finfo(dtype).max / 2].to(device)
    up = torch.full_like(gate, 1.2345)
    result = swiglu(torch.cat((gate, up)).view(1, -1))[0]
    expected = silu(gate) * up
    assert (result == expected).double().mean() > 0.99
    # Where they differ, silu itself came out on the other side of a tie, or below exp's range.
    step = torch.finfo(dtype).eps * expected.float().abs() * 2.5
    assert ((result.float() - expected.float()).abs() <= step + 1e-30).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_extremes(dtype, device):
    largest = torch.finfo(dtype).max
    gate = torch.tensor([0.0, -0.0, largest, -largest, math.inf, -math.inf, math.nan], dtype=dtype)
    up = torch.ones_like(gate)
    result = swiglu(torch.cat((gate, up)).view(1, -1).to(device))[0].cpu()
    expected = silu(gate)
    assert torch.equal(torch.isnan(result), torch.isnan(expected))
    assert torch.equal(result.nan_to_num(nan=1.0), expected.nan_to_num(nan=1.0))


def test_a_value_does_not_depend_on_its_place(device):
    # Tails of a row go through the same arithmetic as its vectors.
    gate, up = torch.randn(67, device=device), torch.randn(67, device=device)
    whole = swiglu(torch.cat((gate, up)).view(1, -1))[0]
    for width in (1, 2, 5, 8, 9, 63):
        part = swiglu(torch.cat((gate[:width], up[:width])).view(1, -1))[0]
        assert torch.equal(part, whole[:width])


@pytest.mark.parametrize("dtype", DTYPES)
def test_many_rows_over_all_threads(dtype, device):
    gate_up = torch.randn(300, 1538).to(device, dtype)
    result = swiglu(gate_up)
    assert torch.equal(result[37:38], swiglu(gate_up[37:38]))
    assert torch.equal(result, swiglu(gate_up))


@pytest.mark.parametrize(
    ("gate_up", "message"),
    [
        (torch.zeros(4), r"swiglu: gate_up must have shape \[\*, \*\], got \[4\]"),
        (torch.zeros(2, 3, 4), r"swiglu: gate_up must have shape \[\*, \*\], got \[2, 3, 4\]"),
        (torch.zeros(2, 5), r"swiglu: gate_up must have an even width, .* got shape \[2, 5\]"),
        (torch.zeros(2, 4).double(), r"gate_up must be float32, float16 or bfloat16, got Double"),
        (torch.zeros(4, 2).t(), r"swiglu: gate_up must be contiguous in its last dimension"),
    ],
)
def test_rejects(gate_up, message):
    with pytest.raises(RuntimeError, match=message):
        swiglu(gate_up)
