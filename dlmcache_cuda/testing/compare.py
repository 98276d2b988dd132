"""Comparing an operator with its reference."""

from __future__ import annotations

import torch
from torch import Tensor


def assert_close_to_reference(
    result: Tensor, exact: Tensor, same_dtype: Tensor, what: str = "result"
) -> None:
    """The 2x-error rule: ``result`` errs at most twice as much as plain torch in the same dtype.

    Args:
        result: what the operator returned.
        exact: the reference computed in float64 from the same inputs.
        same_dtype: the reference computed in the operator's dtype.
        what: names the tensor in the message.

    Integers and booleans must be equal. Infinities and NaN must stand at the same places. A few
    units in the last place of the largest magnitude are always granted: where plain torch happens
    to be exact, twice its error is zero.
    """
    assert result.shape == exact.shape, f"{what}: shape {result.shape}, expected {exact.shape}"
    if not result.dtype.is_floating_point:
        assert torch.equal(result.cpu(), exact.to(result.dtype).cpu()), (
            f"{what}: {_first_difference(result.cpu(), exact.to(result.dtype).cpu())}"
        )
        return
    result64, exact64 = result.double().cpu(), exact.double().cpu()
    same64 = same_dtype.double().cpu()
    for kind in (torch.isnan, torch.isposinf, torch.isneginf):
        assert torch.equal(kind(result64), kind(exact64)), f"{what}: {kind.__name__} differs"
    finite = torch.isfinite(exact64)
    if not finite.any():
        return
    error = (result64 - exact64)[finite].abs()
    granted = 4 * torch.finfo(result.dtype).eps * max(1e-6, exact64[finite].abs().max().item())
    finite_same = finite & torch.isfinite(same64)
    torch_error = (same64 - exact64)[finite_same].abs().max().item() if finite_same.any() else 0.0
    bound = 2 * torch_error + granted
    if error.max().item() > bound:
        worst = int(error.argmax())
        place = torch.nonzero(finite)[worst].tolist()
        raise AssertionError(
            f"{what}: error {error.max().item():.3e} above the bound {bound:.3e} at {place}: "
            f"{result64[finite][worst].item()!r}, expected {exact64[finite][worst].item()!r}"
        )


def _first_difference(result: Tensor, expected: Tensor) -> str:
    places = torch.nonzero(result != expected)
    first = tuple(places[0].tolist())
    return (
        f"{places.shape[0]} of {result.numel()} entries differ, first at {list(first)}: "
        f"{result[first].item()}, expected {expected[first].item()}"
    )
