"""How the rows of a step go through the layers: what a policy asks of the stack."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TrackingSpec:
    """Follow the most-attended rows and refresh when their attention drifts (Elastic-Cache).

    Args:
        track_num: rows followed per layer.
        gamma: a layer whose similarity falls below it makes all layers above it recompute; None:
            nothing is tested.
        similarity: ``heads`` (cosine over heads, mean over keys) or ``rows`` (cosine over keys).
    """

    track_num: int
    gamma: float | None
    similarity: str


@dataclass(frozen=True, slots=True)
class SelectionSpec:
    """Compute the most drifted rows of a layer only; the others keep a cached state.

    Args:
        ratios: one per layer: rows computed, as a fraction of ``base``.
        base: ``generated`` (the generation region) or ``canvas``.
        first_layer: layers below it always compute all of their rows.
        signal: what drifts: ``proxy`` (singular proxy of the values), ``value``, or None: nothing
            is compared, only forced rows are computed.
        proxy_rank: directions of the proxy; at most 1: as a fraction of the width of the values.
        kv_rows: keys and values renewed: of all ``carried`` rows, of the ``selected`` ones, or
            ``values``: values of all, keys of the selected ones.
        reuse: what other rows keep: their ``delta`` (added to the new input) or their ``output``.
        reference_rows: whose reference the new signal replaces: ``all`` or ``computed``.
        forced_extra: forced rows come on top of the budget instead of counting towards it.
    """

    ratios: tuple[float, ...]
    base: str = "generated"
    first_layer: int = 1
    signal: str | None = "proxy"
    proxy_rank: float = 128
    kv_rows: str = "carried"
    reuse: str = "delta"
    reference_rows: str = "all"
    forced_extra: bool = False

    def budget(self, layer: int, gen_length: int, length: int) -> int:
        """Rows that a layer computes of a canvas."""
        return int(self.ratios[layer] * (gen_length if self.base == "generated" else length))


@dataclass(frozen=True, slots=True)
class StackSpec:
    """What happens between the embedding and the head, besides computing the rows that entered."""

    tracking: TrackingSpec | None = None
    selection: SelectionSpec | None = None
    rollout: bool = False
    """Compute the attention rollout of every step (d2Cache)."""

    @property
    def plain(self) -> bool:
        return self.tracking is None and self.selection is None and not self.rollout
