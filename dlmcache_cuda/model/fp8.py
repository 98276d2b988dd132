"""Products of matrices that are stored as float8_e4m3fn with one scale per row.

Both sides are quantised alike: the largest number of a row becomes 448, the largest of the format.
A row's scale depends on nothing but the row, so a row is computed the same whatever else is in the
batch, and no number is read back by the host.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

DTYPE = torch.float8_e4m3fn
LARGEST = torch.finfo(DTYPE).max
# What torch's product wants of both sizes of the weight, and of where its rows begin.
MULTIPLE = 16


def quantise_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """``x [R, K]`` as ``values [R, K]`` float8_e4m3fn times ``scales [R, 1]`` fp32.

    A row of zeros stays zeros; NaN and infinity become NaN, so that they are noticed behind the
    product as they are without quantisation.
    """
    largest = torch.linalg.vector_norm(x, torch.inf, dim=1, keepdim=True, dtype=torch.float32)
    scales = (largest / LARGEST).clamp(min=torch.finfo(torch.float32).tiny)
    return (x / scales).to(DTYPE), scales


def product(
    values: Tensor, scales: Tensor, weight: Tensor, weight_scales: Tensor, dtype: torch.dtype
) -> Tensor:
    """``(values scales) (weight weight_scales)^T`` in ``dtype``, summed in fp32.

    Args:
        values, scales: ``[R, K]`` and ``[R, 1]`` from :func:`quantise_rows`.
        weight, weight_scales: ``[N, K]`` and ``[N, 1]``, likewise; on CUDA N and K are multiples
            of 16.
        dtype: of the result ``[R, N]``. On CUDA the product is rounded to bfloat16 first.
    """
    if values.device.type == "cuda":
        return scaled_mm(values, scales, weight, weight_scales).to(dtype)
    # The same numbers by a plain product: every fp8 number, and the product of two, is an fp32.
    return (F.linear(values.float(), weight.float()) * scales * weight_scales.T).to(dtype)


def scaled_mm(values: Tensor, scales: Tensor, weight: Tensor, weight_scales: Tensor) -> Tensor:
    """The same by torch's own product, in bfloat16: what it can write wherever it exists."""
    rowwise = F.ScalingType.RowWise
    return F.scaled_mm(
        values, weight.T, scales, rowwise, weight_scales.T, rowwise, output_dtype=torch.bfloat16
    )


def check_device(device: torch.device) -> None:
    """Makes a small product.

    Raises:
        ValueError: this device, or this torch on it, has none.
    """
    one = torch.ones((MULTIPLE, MULTIPLE), device=device)
    try:
        product(*quantise_rows(one), *quantise_rows(one), torch.float32).cpu()
    except (RuntimeError, ValueError, NotImplementedError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"load: weights 'fp8' needs a GPU of compute capability 8.9 or newer on which torch "
            f"{torch.__version__} multiplies float8_e4m3fn with a scale per row; {device} does "
            f"not ({reason}); leave weights out"
        ) from error
