"""The ways to store a matrix: slices of its rows, rows below it, biases, memory."""

from __future__ import annotations

import pytest
import torch

from dlmcache_cuda.model.fp8 import quantise_rows
from dlmcache_cuda.model.linear import Fp8Linear, PlainLinear
from dlmcache_cuda.model.packed import PackedLinear, packs

OUTPUTS, WIDTH = 96, 64


@pytest.fixture(
    params=[PlainLinear, PackedLinear, Fp8Linear.quantise], ids=["plain", "packed", "fp8"]
)
def kind(request, device):
    if request.param is PackedLinear and not packs(device, torch.float32):
        pytest.skip(f"torch packs no matrices on {device}")
    return request.param


@pytest.fixture(params=[False, True], ids=["no bias", "bias"])
def bias(request, device):
    return torch.randn(OUTPUTS, device=device) if request.param else None


def relative_error(got, expected):
    return float((got.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize("first, last", [(0, None), (0, 32), (48, None), (16, 96), (80, 81)])
@pytest.mark.parametrize("rows", [1, 7, 40])
def test_slices(kind, bias, first, last, rows, device):
    linear = kind(torch.randn(OUTPUTS, WIDTH, device=device), bias)
    x = torch.randn(rows, WIDTH, device=device)
    out = linear(x, first, last)
    if kind == Fp8Linear.quantise:
        values, scales = quantise_rows(x)
        x = values.float() * scales
    expected = x.double() @ linear.rows(first, last).double().T
    if bias is not None:
        expected = expected + bias[first:last].double()
    assert out.shape == expected.shape and out.dtype == x.dtype
    assert relative_error(out, expected) < (1e-6 if device == "cpu" else 1e-2)


def test_rows_are_the_weight(kind, device):
    weight = torch.randn(OUTPUTS, WIDTH, device=device)
    linear = kind(weight)
    assert len(linear) == OUTPUTS and linear.rows().dtype == weight.dtype
    assert relative_error(linear.rows(), weight) < (1e-9 if kind is PlainLinear else 0.04)
    assert torch.equal(linear.rows(16, 20), linear.rows()[16:20])


@pytest.mark.parametrize("more", [1, 5, 16, 33])
def test_rows_below(kind, bias, more, device):
    linear = kind(torch.randn(OUTPUTS, WIDTH, device=device), bias)
    below = torch.randn(more, WIDTH, device=device)
    first = linear.with_rows(OUTPUTS, torch.randn(7, WIDTH, device=device))
    for grown in (linear.with_rows(OUTPUTS, below), first.with_rows(OUTPUTS, below)):
        assert len(grown) == OUTPUTS + more and len(linear) == OUTPUTS
        assert torch.equal(grown.rows(0, OUTPUTS), linear.rows())
        assert torch.equal(grown.rows(OUTPUTS), kind(below).rows())
        x = torch.randn(9, WIDTH, device=device)
        assert torch.equal(grown(x, 0, OUTPUTS), linear(x))
        # No bias there, whatever stands above.
        assert relative_error(grown(x, OUTPUTS), kind(below)(x)) < 1e-6
        both = torch.cat((linear(x, 32), kind(below)(x)), dim=1)
        assert relative_error(grown(x, 32), both) < 1e-6


def test_memory(bias, device):
    weight = torch.randn(OUTPUTS, WIDTH, device=device)
    of_bias = 0 if bias is None else 4 * OUTPUTS
    assert PlainLinear(weight, bias).nbytes == 4 * OUTPUTS * WIDTH + of_bias
    assert Fp8Linear.quantise(weight, bias).nbytes == OUTPUTS * (WIDTH + 4) + of_bias
