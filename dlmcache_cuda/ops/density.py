"""How well the neighbourhood of every position is known."""

from __future__ import annotations

import torch
from torch import Tensor

from dlmcache_cuda import _extension  # noqa: F401  (registers the operators)


def density(known: Tensor, begin: Tensor, end: Tensor, capacity: int, sigma: float) -> Tensor:
    """Share of known positions around each position of a region, under a Gaussian window.

    ``density_i = sum_j w(i - j) known_j / sum_j w(i - j)``, ``w(d) = exp(-d^2 / (2 sigma^2))``,
    where ``j`` runs over the region extended by its own length on both sides. To the left of the
    region every position counts as known, to its right every one or none, as the region's last
    position is. d2Cache multiplies confidences by it, so that decoding grows outwards from what
    is certain.

    Args:
        known: ``[S * capacity]`` bool, contiguous; read inside the regions only.
        begin: ``[S]`` int64 first position of each slot's region.
        end: ``[S]`` int64 position behind the region's last one, at most ``capacity``;
            ``end <= begin`` means that the slot has none.
        capacity: positions of a slot.
        sigma: width of the window in positions, positive.

    Returns:
        ``[S * capacity]`` fp32 in [0, 1]; 0 outside of the regions.

    Raises:
        RuntimeError: a shape, dtype or device is not as above, ``sigma`` is not positive and
            finite, or (on a CPU) a position is out of range.
    """
    return torch.ops.dlmcache.density(known, begin, end, capacity, sigma)


@torch.library.register_fake("dlmcache::density")
def _(known, begin, end, capacity, sigma):
    return torch.empty_like(known, dtype=torch.float32)
