"""When, where and which, composed: Elastic-Cache, SPA-Cache and dKV-Cache in one policy. Ours.

* Elastic-Cache decides *when* and *from which layer*: tracked attention drifts, reuse ends there.
* SPA-Cache decides *which rows*: the layer above the drifting one computes the whole canvas, in the
  layers above that the singular proxy chooses, within the layer's budget; the rows that entered the
  step are always among them, the others add their cached delta to their new input.
* dKV-Cache's delay decides *how long* a committed token stays among the computed rows.

Each part can be switched off: ``gamma=None`` (refresh by interval only), ``max_update_ratio=None``
(everything above the boundary is computed: this is ``elastic``), ``delay_steps=1`` (a committed
token is computed once more: Elastic-Cache's own rule; 0: not even that).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dlmcache_cuda.policies.base import (
    Frame,
    PolicyConfig,
    SlotPlan,
    SlotView,
    StepPlan,
    StepResult,
    StepView,
    check_integer,
    check_number,
    is_due,
)
from dlmcache_cuda.policies.elastic import Elastic, check_tracking
from dlmcache_cuda.policies.registry import register_policy
from dlmcache_cuda.policies.spa import check_budget, layer_ratios
from dlmcache_cuda.policies.stack_spec import SelectionSpec, StackSpec, TrackingSpec


@dataclass(frozen=True, slots=True)
class ComposedConfig(PolicyConfig):
    """Settings of the composed policy.

    Args:
        gamma: as in Elastic-Cache; None: drift is not tested.
        refresh_steps: steps from one refresh of the whole canvas to the next: layer 0 computes all
            rows, the layers above their budget. None: never.
        window_length, track_num, block_caching, similarity, eos_cut, mask_is_final: as in
            Elastic-Cache.
        delay_steps: steps for which a committed token stays among the computed rows. Default: 1.
        max_update_ratio: rows that the peak layer computes after a refresh, as a fraction of the
            canvas. None: all.
        min_update_ratio, budget, peak, first_ratio, peak_ratio, last_ratio, layer_ratios,
            proxy_rank: as in SPA-Cache.
    """

    gamma: float | None = 0.9
    refresh_steps: int | None = None
    window_length: int | None = 16
    track_num: int = 1
    block_caching: bool = True
    similarity: str = "heads"
    eos_cut: bool = True
    mask_is_final: bool = True
    delay_steps: int = 1
    max_update_ratio: float | None = 0.25
    min_update_ratio: float = 1 / 16
    budget: str = "gaussian"
    peak: float = 0.75
    first_ratio: float = 0.03
    peak_ratio: float = 0.25
    last_ratio: float = 0.13
    layer_ratios: tuple[float, ...] | None = None
    proxy_rank: float = 128

    def __post_init__(self) -> None:
        check_number("gamma", self.gamma, -1e6, 1e6, optional=True)
        check_tracking(self)
        check_number("max_update_ratio", self.max_update_ratio, 0, 1, optional=True)
        check_budget(self)
        check_integer("delay_steps", self.delay_steps, 0)


@register_policy("composed")
class Composed(Elastic):
    """Elastic-Cache's boundary, SPA-Cache's rows above it, dKV-Cache's delay."""

    Config = ComposedConfig

    @property
    def _selects(self) -> bool:
        return self.config.max_update_ratio is not None or self.config.layer_ratios is not None

    def stack_spec(self, n_layers: int) -> StackSpec:
        config = self.config
        selection = None
        if self._selects:
            selection = SelectionSpec(
                ratios=layer_ratios(config, n_layers),
                base="canvas",
                proxy_rank=config.proxy_rank,
            )
        tracking = TrackingSpec(config.track_num, config.gamma, config.similarity)
        return StackSpec(tracking=tracking, selection=selection)

    def attach(self, frame: Frame) -> None:
        super().attach(frame)
        # Steps for which each position stays active.
        self._stays = torch.zeros(
            frame.num_slots * frame.capacity, dtype=torch.int64, device=frame.device
        )

    def enter(self, slot: int) -> None:
        capacity = self.frame.capacity
        self._stays[slot * capacity : (slot + 1) * capacity] = 0

    def mark(self, step: StepView, plan: StepPlan) -> None:
        super().mark(step, plan)
        plan.forced = plan.marks

    def max_forced(self, view: SlotView, plan: SlotPlan) -> int:
        return self.max_rows(view, plan)

    def _max_fresh(self, view: SlotView) -> int:
        delay = self.config.delay_steps
        return sum(view.commits[-delay:]) if delay else 0

    def plan_slot(self, view: SlotView) -> SlotPlan:
        window, sparse = self.config.window_length, self._selects and view.step > 0
        if is_due(view.step, self.config.refresh_steps):
            return SlotPlan(0, view.length, refresh=True, window=window, sparse=sparse)
        tested = self.config.gamma is not None
        return SlotPlan(
            0, view.length, refresh=False, marked=True, window=window, sparse=sparse, tested=tested
        )

    def _newly(self, result: StepResult) -> Tensor:
        stays = (self._stays - 1).clamp_(min=0).masked_fill_(result.newly, self.config.delay_steps)
        result.keep(self._stays, stays)
        return self._stays > 0

    @classmethod
    def exact_config(cls) -> ComposedConfig:
        return ComposedConfig(
            refresh_steps=1,
            window_length=None,
            eos_cut=False,
            mask_is_final=False,
            max_update_ratio=None,
        )
