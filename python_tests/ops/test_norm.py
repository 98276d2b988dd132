"""What is particular about the norms: rounding order, geometry, messages."""

from __future__ import annotations

import pytest
import torch

from dlmcache_cuda.ops import add_rms_norm, rms_norm

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def test_equals_transformers():
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    norm = LlamaRMSNorm(96, eps=1e-5)
    torch.nn.init.normal_(norm.weight)
    x = torch.randn(5, 96)
    torch.testing.assert_close(rms_norm(x, norm.weight.detach(), 1e-5), norm(x).detach())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounds_before_the_weight(dtype, device):
    # The product of rounded factors, rounded again; one rounding of the whole would differ.
    x = torch.randn(4, 256).to(device, dtype)
    weight = torch.full((256,), 1.3, device=device).to(dtype)
    normed = rms_norm(x, torch.ones_like(weight), 1e-6)
    assert torch.equal(rms_norm(x, weight, 1e-6), normed * weight)


@pytest.mark.parametrize("dtype", DTYPES)
def test_gathers(dtype, device):
    x = torch.randn(9, 130).to(device, dtype)
    weight = torch.randn(130).to(device, dtype)
    index = torch.tensor([8, 3, 3, 0, -1], device=device)
    everything = rms_norm(x, weight, 1e-5)
    picked = rms_norm(x, weight, 1e-5, index)
    assert torch.equal(picked[:4], everything[index[:4]])
    assert torch.equal(picked[4], torch.zeros_like(picked[4]))


def test_unused_entries_read_nothing(device):
    x = torch.full((2, 64), float("nan"), device=device)
    unused = torch.full((3,), -1, device=device)
    result = rms_norm(x, torch.ones(64, device=device), 1e-5, unused)
    assert torch.equal(result, torch.zeros(3, 64, device=device))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_row_does_not_depend_on_the_others(dtype, device):
    x = torch.randn(200, 771).to(device, dtype)
    weight = torch.randn(771).to(device, dtype)
    result = rms_norm(x, weight, 1e-5)
    assert torch.equal(result[123:124], rms_norm(x[123:124], weight, 1e-5))
    assert torch.equal(result, rms_norm(x, weight, 1e-5))


def test_zero_row_stays_zero(device):
    x = torch.zeros(1, 33, device=device)
    assert torch.equal(rms_norm(x, torch.ones(33, device=device), 1e-5), x)


def test_scale_of_the_input_does_not_matter(device):
    # Powers of two scale without rounding; with eps = 0 the result is the same to the bit.
    x = torch.randn(3, 128, device=device)
    weight = torch.randn(128, device=device)
    assert torch.equal(rms_norm(x * 1024, weight, 0.0), rms_norm(x, weight, 0.0))


X, WEIGHT, INDEX = torch.zeros(4, 6), torch.zeros(6), torch.tensor([0, 3])


@pytest.mark.parametrize(
    ("x", "weight", "index", "message"),
    [
        (X[0], WEIGHT, None, r"x must have shape \[\*, \*\], got \[6\]"),
        (X, WEIGHT[:5], None, r"weight must have shape \[6\], got \[5\]"),
        (X.double(), WEIGHT.double(), None, r"x must be float32, float16 or bfloat16, got Double"),
        (X, WEIGHT.half(), None, r"weight must be Float, got Half"),
        (torch.zeros(6, 4).t(), WEIGHT, None, r"x must be contiguous in its last dimension"),
        (X, torch.zeros(12)[::2], None, r"weight must be contiguous"),
        (X, WEIGHT, INDEX.view(2, 1), r"row_index must have shape \[\*\], got \[2, 1\]"),
        (X, WEIGHT, INDEX.int(), r"row_index must be Long, got Int"),
        (X, WEIGHT, torch.arange(4)[::2], r"row_index must be contiguous"),
        (X, WEIGHT, INDEX + 1, r"row_index\[1\] is 4, allowed are -1 \(unused\) to 3"),
        (X, WEIGHT, INDEX - 2, r"row_index\[0\] is -2, allowed are -1 \(unused\) to 3"),
    ],
)
def test_rejects(x, weight, index, message):
    with pytest.raises(RuntimeError, match="rms_norm: " + message):
        rms_norm(x, weight, 1e-5, index)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [1, 96, 771])
def test_the_norm_of_a_sum_is_the_sum_then_the_norm(dtype, width, device):
    wide = torch.randn(9, 2 * width + 3).to(device, dtype)
    x, y = wide[:, :width], wide[:, width + 1 : 2 * width + 1]
    weight = torch.randn(width).to(device, dtype)
    total, normed = add_rms_norm(x, y, weight, 1e-5)
    assert torch.equal(total, x + y)
    assert torch.equal(normed, rms_norm(x + y, weight, 1e-5))


@pytest.mark.parametrize(
    ("x", "y", "weight", "message"),
    [
        (X[0], X, WEIGHT, r"x must have shape \[\*, \*\], got \[6\]"),
        (X, X[:3], WEIGHT, r"y must have shape \[4, 6\], got \[3, 6\]"),
        (X, X, WEIGHT[:5], r"weight must have shape \[6\], got \[5\]"),
        (X, X.half(), WEIGHT, r"y must be Float, got Half"),
        (X, X, WEIGHT.half(), r"weight must be Float, got Half"),
        (X, torch.zeros(6, 4).t(), WEIGHT, r"y must be contiguous in its last dimension"),
    ],
)
def test_rejects_sums(x, y, weight, message):
    with pytest.raises(RuntimeError, match="add_rms_norm: " + message):
        add_rms_norm(x, y, weight, 1e-5)
