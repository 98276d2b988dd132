"""dLLM-Cache (arXiv 2506.06295): long intervals for the prompt, short ones for the response.

Between refreshes the values of the response are recomputed in every layer, and the rows whose value
drifted most since the step before are computed (V-verify); the others add their cached delta.

As in the authors' code layer 0 is treated like the others, values of all response rows are renewed
and keys of the computed ones only. Different from it, without effect on the tokens: rows of the
prompt are not carried between its refreshes (only their keys and values matter), one cached delta
instead of attention and feed-forward output apart, and ties go to the lowest position. On Dream the
last prompt row, which predicts the first generated token, counts as a row of the response.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dlmcache_cuda.policies.base import (
    CachePolicy,
    Frame,
    PolicyConfig,
    SlotPlan,
    SlotView,
    StepPlan,
    StepView,
    check_interval,
    check_number,
)
from dlmcache_cuda.policies.registry import register_policy
from dlmcache_cuda.policies.stack_spec import SelectionSpec, StackSpec


@dataclass(frozen=True, slots=True)
class DllmConfig(PolicyConfig):
    """Settings of dLLM-Cache.

    Args:
        prompt_interval_steps: steps from one computation of the prompt to the next. Default: 50.
        gen_interval_steps: steps from one computation of the response to the next. Default: 4.
            Both 1: vanilla.
        transfer_ratio: rows computed in between, as a fraction of ``gen_length``. Default: 0.25.
            0: nothing of the response is touched between its refreshes.
    """

    prompt_interval_steps: int = 50
    gen_interval_steps: int = 4
    transfer_ratio: float = 0.25

    def __post_init__(self) -> None:
        check_interval("prompt_interval_steps", self.prompt_interval_steps)
        check_interval("gen_interval_steps", self.gen_interval_steps)
        check_number("transfer_ratio", self.transfer_ratio, 0, 1)


@register_policy("dllm")
class Dllm(CachePolicy):
    """Refreshes prompt and response at intervals of their own, verifies values (dLLM-Cache)."""

    Config = DllmConfig

    def stack_spec(self, n_layers: int) -> StackSpec:
        ratio = self.config.transfer_ratio
        return StackSpec(
            selection=SelectionSpec(
                ratios=(ratio,) * n_layers,
                first_layer=0,
                signal="value" if ratio > 0 else None,
                kv_rows="values" if ratio > 0 else "selected",
                forced_extra=True,
            )
        )

    def attach(self, frame: Frame) -> None:
        super().attach(frame)
        self._positions = torch.arange(frame.capacity, device=frame.device)

    def mark(self, step: StepView, plan: StepPlan) -> None:
        ends = step.columns.prompt_length - self.frame.shift
        prompt = self._positions < ends[:, None]
        plan.forced = self.frame.twinned(prompt.flatten())

    def max_forced(self, view: SlotView, plan: SlotPlan) -> int:
        return max(view.prompt_length - view.shift - plan.begin, 0)

    def plan_slot(self, view: SlotView) -> SlotPlan:
        prompt = view.step % self.config.prompt_interval_steps == 0
        response = view.step % self.config.gen_interval_steps == 0
        begin = 0 if prompt else view.prompt_length - view.shift
        return SlotPlan(begin, view.length, refresh=prompt or response, sparse=not response)

    @classmethod
    def exact_config(cls) -> DllmConfig:
        return DllmConfig(prompt_interval_steps=1, gen_interval_steps=1)
