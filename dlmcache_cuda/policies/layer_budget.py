"""How much of a canvas each layer may recompute: SPA-Cache's curves over depth.

Source: SPA-Cache (arXiv 2602.02544), section 3 and its code. The paper anchors the curve at the
first and the last layer, the code at depth 0 and one past the last layer; this is the code's.
"""

from __future__ import annotations


def split_gaussian(
    n_layers: int,
    *,
    peak: float,
    first_ratio: float,
    peak_ratio: float,
    last_ratio: float,
    max_update_ratio: float,
    min_update_ratio: float,
) -> tuple[float, ...]:
    """A bell over depth ``t = layer / n_layers`` with a left and a right half of its own.

    Args:
        n_layers: number of layers.
        peak: depth of the maximum, in (0, 1).
        first_ratio, peak_ratio, last_ratio: values at depth 0, at the peak and at depth 1; all are
            scaled by ``max_update_ratio / peak_ratio``.
        max_update_ratio: value at the peak.
        min_update_ratio: floor of the left half. As in the code, the right half has none.

    Returns:
        One ratio per layer.
    """
    scale = max_update_ratio / peak_ratio
    first, top, last = first_ratio * scale, max_update_ratio, last_ratio * scale

    def ratio(depth: float) -> float:
        if depth < peak:
            return max(top * (first / top) ** (((depth - peak) / peak) ** 2), min_update_ratio)
        return top * (last / top) ** (((depth - peak) / (1 - peak)) ** 2)

    return tuple(ratio(layer / n_layers) for layer in range(n_layers))


def uniform(n_layers: int, ratio: float) -> tuple[float, ...]:
    """The same ratio for every layer."""
    return (ratio,) * n_layers
