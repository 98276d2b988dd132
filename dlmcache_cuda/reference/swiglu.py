"""Plain torch twin of :mod:`dlmcache_cuda.ops.swiglu`."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import silu


def swiglu(gate_up: Tensor) -> Tensor:
    """See :func:`dlmcache_cuda.ops.swiglu`; float64 is accepted too."""
    gate, up = gate_up.chunk(2, dim=-1)
    return silu(gate) * up
