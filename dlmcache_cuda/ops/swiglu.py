"""Gated activation of the feed-forward layer."""

from __future__ import annotations

import torch
from torch import Tensor

from dlmcache_cuda import _extension  # noqa: F401  (registers the operators)


def swiglu(gate_up: Tensor) -> Tensor:
    """``silu(gate) * up`` with gate and up side by side in one tensor.

    ``silu(g) = g / (1 + exp(-g))`` is computed in fp32 and rounded to the dtype of ``gate_up``
    before the product, which is rounded again: what ``F.silu(gate) * up`` gives (LLaDA modeling
    code, ``LLaDALlamaBlock``).

    Args:
        gate_up: ``[R, 2 F]``, float32, float16 or bfloat16: F gates, then F ups. Rows may lie apart
            (any row stride).

    Returns:
        ``[R, F]``, contiguous, dtype of ``gate_up``.

    Raises:
        RuntimeError: the shape, dtype or stride is not as above.
    """
    return torch.ops.dlmcache.swiglu(gate_up)


@torch.library.register_fake("dlmcache::swiglu")
def _(gate_up: Tensor) -> Tensor:
    return gate_up.new_empty((gate_up.shape[0], gate_up.shape[1] // 2))
