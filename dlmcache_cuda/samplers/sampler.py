"""The sampler: how tokens are predicted, ranked and committed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from dlmcache_cuda import ops
from dlmcache_cuda.cache.row_list import RowList
from dlmcache_cuda.samplers.rules import SHARE_UNIT, CommitRule, Origin

REMASKINGS = ("low_confidence", "random", "random_order")
# Dream's names -> what candidates are ranked by, a name of Llada.predict.
ALGORITHMS = {
    "origin": "confidence",
    "maskgit_plus": "confidence",
    "topk_margin": "margin",
    "entropy": "entropy",
}

# Streams of the counter-based random numbers; stream 0 is the Gumbel noise of the head.
RANDOM_REMASKING_STREAM = 1
RANDOM_ORDER_STREAM = 2
ORIGIN_STREAM = 3
ALG_TEMP_STREAM = 4


@dataclass(frozen=True, slots=True)
class Sampler:
    """What is predicted and committed at a step.

    Args:
        rule: how many candidates are committed.
        remasking: ``low_confidence`` ranks candidates by the probability of their token,
            ``random`` by a number drawn anew for every position at every step, ``random_order``
            commits in an order that is drawn once per block.
        temperature: of the Gumbel-max choice of tokens; 0 takes the most probable token.
        cfg_scale: weight of unsupervised classifier-free guidance; 0 is off.
        suppress_ids: token ids that are never predicted and take no probability.
        confidence_suppress_ids: token ids that may be predicted but have confidence 0.
        alg: one of :data:`ALGORITHMS`: Dream's sampling instead of LLaDA's. Confidences are then
            those of the distribution that tokens are drawn from, behind temperature and filters,
            and rank candidates as the algorithm says. None: LLaDA's, with ``remasking``.
        alg_temp: > 0: candidates are not ranked but drawn, without replacement, by the softmax of
            confidence / ``alg_temp``. None or 0: ranked.
        top_p, top_k: filters of the distribution; 1 and 0 keep all.
    """

    rule: CommitRule
    remasking: str = "low_confidence"
    temperature: float = 0.0
    cfg_scale: float = 0.0
    suppress_ids: tuple[int, ...] = field(default=())
    confidence_suppress_ids: tuple[int, ...] = field(default=())
    alg: str | None = None
    alg_temp: float | None = None
    top_p: float = 1.0
    top_k: int = 0

    @property
    def ranks_by_confidence(self) -> bool:
        """Whether candidates are ranked by the probability of their token."""
        by_confidence = self.alg in (None, "maskgit_plus") and not self.alg_temp
        return self.rule.ranked and self.remasking == "low_confidence" and by_confidence

    @property
    def confidence_is_log_prob(self) -> bool:
        """Whether confidences are probabilities by the softmax of all logits as they are."""
        filtered = self.alg is not None and (
            self.temperature > 0 or self.top_p < 1 or self.top_k > 0
        )
        return not (filtered or self.suppress_ids or self.confidence_suppress_ids)

    def predict(
        self,
        model: Any,
        hidden: Tensor,
        places: Tensor,
        candidates: RowList,
        seeds: Tensor,
        steps: Tensor,
        num_commit: Tensor,
        **options: Any,
    ) -> Any:
        """Tokens of the candidates and how sure they are.

        Args:
            model: a :class:`dlmcache_cuda.model.Llada`.
            hidden: ``[R, W]`` what its network computed.
            places: ``[Q]`` the row of ``hidden`` that predicts each candidate.
            candidates: the masked positions, ``Q`` of them.
            seeds, steps, num_commit: ``[S]`` int64 of each slot; the last one is the rule's.
            options: ``uncond_places``, ``suppress_ids`` and ``confidence_suppress_ids`` of
                ``model.predict``.

        Returns:
            Its ``Prediction``. The token of a candidate that may not be committed at this step
            (``origin``) is the mask.
        """
        if self.temperature > 0:
            options |= {
                "temperature": self.temperature,
                "row_index": candidates.row_index,
                "capacity": candidates.capacity,
                "seeds": seeds,
                "steps": steps,
            }
        if self.alg is not None:
            options |= {
                "ranking": ALGORITHMS[self.alg],
                "top_p": self.top_p,
                "top_k": self.top_k,
            }
        prediction = model.predict(hidden, places, cfg_scale=self.cfg_scale, **options)
        if not isinstance(self.rule, Origin):
            return prediction
        draws = _uniform(candidates, seeds, steps, ORIGIN_STREAM).double()
        # Slots of unused entries do not matter; their index has to exist.
        slot = candidates.row_index.clamp(min=0) // candidates.capacity
        chosen = draws < num_commit[slot] * SHARE_UNIT
        # A NaN prediction stays one, wherever it stands, so that it is reported.
        kept = chosen | (prediction.token < 0)
        token = prediction.token.masked_fill(~kept, model.mask_token_id)
        return prediction._replace(token=token, held_back=prediction.token)

    def score(
        self, prediction: Any, candidates: RowList, seeds: Tensor, steps: Tensor
    ) -> Tensor | None:
        """What ranks the candidates ``[Q]`` fp32, or None for their log-confidence."""
        if self.alg is None:
            if self.remasking != "random":
                return None
            return _uniform(candidates, seeds, steps, RANDOM_REMASKING_STREAM)
        if not self.alg_temp:
            return prediction.score
        score = prediction.log_confidence if prediction.score is None else prediction.score
        confidence = score if self.alg == "entropy" else score.exp()
        draws = _uniform(candidates, seeds, steps, ALG_TEMP_STREAM).double()
        # The largest of confidence / alg_temp + Gumbel noise are such a draw without replacement.
        return (confidence / self.alg_temp - (-draws.log()).log()).float()


def _uniform(candidates: RowList, seeds: Tensor, steps: Tensor, stream: int) -> Tensor:
    return ops.uniform_rows(candidates.row_index, candidates.capacity, seeds, steps, stream)
