"""The sampler: how tokens are predicted, ranked and committed."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from dlmcache_cuda import ops
from dlmcache_cuda.cache.row_list import RowList
from dlmcache_cuda.samplers.rules import CommitRule

REMASKINGS = ("low_confidence", "random", "random_order")

# Streams of the counter-based random numbers; stream 0 is the Gumbel noise of the head.
RANDOM_REMASKING_STREAM = 1
RANDOM_ORDER_STREAM = 2


@dataclass(frozen=True, slots=True)
class Sampler:
    """What is committed at a step.

    Args:
        rule: how many candidates are committed.
        remasking: ``low_confidence`` ranks candidates by the probability of their token,
            ``random`` by a number drawn anew for every position at every step, ``random_order``
            commits in an order that is drawn once per block.
        temperature: of the Gumbel-max choice of tokens; 0 takes the most probable token.
        cfg_scale: weight of unsupervised classifier-free guidance; 0 is off.
        suppress_ids: token ids that are never predicted and take no probability.
        confidence_suppress_ids: token ids that may be predicted but have confidence 0.
    """

    rule: CommitRule
    remasking: str = "low_confidence"
    temperature: float = 0.0
    cfg_scale: float = 0.0
    suppress_ids: tuple[int, ...] = field(default=())
    confidence_suppress_ids: tuple[int, ...] = field(default=())

    def score(self, candidates: RowList, seeds: Tensor, steps: Tensor) -> Tensor | None:
        """What ranks the candidates ``[R]`` fp32, or None for their confidence."""
        if self.remasking != "random":
            return None
        return ops.uniform_rows(
            candidates.row_index, candidates.capacity, seeds, steps, RANDOM_REMASKING_STREAM
        )
