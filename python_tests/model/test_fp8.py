"""Rows as fp8 with a scale: how far they are from what they were, and their product."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from dlmcache_cuda.model import fp8
from dlmcache_cuda.model.fp8 import check_device, product, quantise_rows, scaled_mm


def worth(values, scales):
    return values.double() * scales.double()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(1, 16), (7, 48), (129, 769)], ids=str)
def test_numbers_are_kept_to_three_bits(shape, dtype, device):
    x = torch.randn(shape, device=device).to(dtype) * 10 ** torch.randint(-2, 3, (shape[0], 1)).to(
        device, dtype
    )
    values, scales = quantise_rows(x)
    assert values.dtype == torch.float8_e4m3fn and scales.dtype == torch.float32
    assert values.shape == shape and scales.shape == (shape[0], 1)
    error = (worth(values, scales) - x.double()).abs()
    # Three bits behind the first, so 1/16 at most; below 2^-6 of the format steps of 2^-9.
    assert (error <= x.double().abs() / 16 * 1.001 + scales * 2**-10).all()
    # The largest of each row is kept as it was, but for the rounding of its scale.
    largest = x.double().abs().amax(1)
    torch.testing.assert_close(worth(values, scales).abs().amax(1), largest, rtol=1e-6, atol=0)


def test_a_row_is_quantised_by_itself(device):
    x = torch.randn(50, 64, device=device) * torch.logspace(-3, 3, 50, device=device)[:, None]
    values, scales = quantise_rows(x)
    for row in (0, 17, 49):
        alone, scale = quantise_rows(x[row : row + 1])
        assert torch.equal(alone.float(), values[row : row + 1].float())
        assert torch.equal(scale, scales[row : row + 1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_zeros_and_the_smallest_numbers(dtype, device):
    smallest = torch.finfo(dtype).smallest_normal
    x = torch.tensor([[0.0] * 16, [smallest] * 16], dtype=dtype, device=device)
    values, scales = quantise_rows(x)
    assert (values[0].float() == 0).all() and scales.isfinite().all()
    assert values[1].float().isfinite().all()
    empty = quantise_rows(x[:0])
    assert empty[0].shape == (0, 16) and empty[1].shape == (0, 1)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_shows_behind_the_product(bad, device):
    x, weight = torch.randn(3, 32, device=device), torch.randn(16, 32, device=device)
    x[1, 5] = bad
    out = product(*quantise_rows(x), *quantise_rows(weight), torch.float32)
    assert out[1].isnan().any()
    assert out[[0, 2]].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("sizes", [(1, 64, 32), (7, 96, 48), (33, 160, 16), (0, 32, 16)], ids=str)
def test_product_is_that_of_the_quantised_numbers(sizes, dtype, device):
    rows, width, outputs = sizes
    x, weight = (quantise_rows(torch.randn(n, width, device=device)) for n in (rows, outputs))
    out = product(*x, *weight, dtype)
    assert out.dtype == dtype
    exact = worth(*x) @ worth(*weight).T
    rounding = torch.finfo(torch.bfloat16 if device == "cuda" else dtype).eps
    torch.testing.assert_close(out.double(), exact, rtol=rounding, atol=1e-4)


def test_call_of_torchs_product():
    """What CUDA is given, given to the CPU's version of the same function."""
    x, weight = quantise_rows(torch.randn(5, 64)), quantise_rows(torch.randn(48, 64))
    out = scaled_mm(*x, *weight)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, product(*x, *weight, torch.bfloat16))


def test_nothing_is_read_by_the_host():
    """Tensors without numbers, on a CUDA that need not exist, go all the way."""
    with FakeTensorMode():
        x = torch.empty(5, 64, device="cuda", dtype=torch.float16)
        weight = torch.empty(48, 64, device="cuda", dtype=torch.float16)
        out = product(*quantise_rows(x), *quantise_rows(weight), torch.float16)
    assert out.shape == (5, 48) and out.dtype == torch.float16 and out.device.type == "cuda"


def test_a_device_without_the_product_is_refused(monkeypatch):
    check_device(torch.device("cpu"))

    def missing(*arguments):
        raise RuntimeError("only for capability >= 8.9\nand a trace")

    monkeypatch.setattr(fp8, "product", missing)
    with pytest.raises(ValueError) as caught:
        check_device(torch.device("cpu"))
    message = str(caught.value)
    assert message.startswith("load: weights 'fp8' needs a GPU of compute capability 8.9 or newer")
    assert message.endswith("cpu does not (only for capability >= 8.9); leave weights out")
