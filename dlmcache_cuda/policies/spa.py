"""SPA-Cache (arXiv 2602.02544): a singular proxy of the values finds the rows that moved.

A full step computes the canvas, a generated step the generation region; the steps in between carry
the generation region through the layers, but compute attention and feed-forward only for the rows
whose projection on the top singular directions of the value weights drifted most since the step
before, in each layer within a budget that follows a bell over depth. The other rows add their
cached delta to their new input.

Where paper and code differ this is the code by default: keys and values of all generated rows are
renewed (paper: of the selected rows, ``kv_rows="selected"``); unselected rows reuse the delta
(paper: the absolute output, ``reuse="output"``); layer 0 is always dense. Different from the code,
without effect on the tokens: rows of the prompt are not computed between full steps (their layer-0
keys and values cannot change, their outputs are not read), and ties go to the lowest position. On
Dream the last prompt row, which predicts the first generated token, is carried along; the authors'
code shifts predictions inside the generated slice instead, so that its positions P and P + 1 share
one prediction (``slice_shift=True``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dlmcache_cuda.policies.base import (
    CachePolicy,
    PolicyConfig,
    SlotPlan,
    SlotView,
    check_choice,
    check_flag,
    check_integer,
    check_interval,
    check_number,
)
from dlmcache_cuda.policies.layer_budget import split_gaussian, uniform
from dlmcache_cuda.policies.registry import register_policy
from dlmcache_cuda.policies.stack_spec import SelectionSpec, StackSpec

BUDGETS = ("gaussian", "uniform")


@dataclass(frozen=True, slots=True)
class SpaConfig(PolicyConfig):
    """Settings of SPA-Cache. Defaults: LLaDA-8B-Instruct on GSM8K.

    Args:
        refresh_steps: steps from one computation of the canvas to the next. 1 is vanilla.
        refresh_gen_steps: steps from one computation of the generation region to the next.
        proxy_rank: singular directions of the proxy (at most the width of the values); at most 1:
            as a fraction of that width. Default: 128 (Dream: 32).
        max_update_ratio: rows that the peak layer computes, as a fraction of ``gen_length``.
        min_update_ratio: floor of the bell's left half.
        budget: ``gaussian`` or ``uniform`` (``max_update_ratio`` in every layer).
        peak: depth of the bell's maximum, in (0, 1).
        first_ratio, peak_ratio, last_ratio: shape of the bell at depth 0, at the peak, at depth 1;
            scaled so that the peak is ``max_update_ratio``.
        layer_ratios: budgets of a model, one ratio per layer, in place of a curve: for models that
            none was published for; see :func:`dlmcache_cuda.measure_layer_ratios`.
        kv_rows: ``generated`` (the authors' code) or ``selected`` (the paper).
        reuse: ``delta`` (the authors' code) or ``output`` (the paper).
        reference_rows: whose proxy becomes the next reference: ``all`` (the authors' code: drift is
            from step to step) or ``computed`` (drift since the row was last computed).
        warmup_steps: full steps after the first (Dream: 1).
        early_stop_steps: every so many steps, what stands behind the first end token is overwritten
            by padding, committed or not. None: never. The scripts use the block length.
        slice_shift: on Dream, as the authors' code: between full steps row P predicts positions P
            and P + 1. Without effect on LLaDA.
    """

    refresh_steps: int = 50
    refresh_gen_steps: int = 7
    proxy_rank: float = 128
    max_update_ratio: float = 0.25
    min_update_ratio: float = 1 / 16
    budget: str = "gaussian"
    peak: float = 0.75
    first_ratio: float = 0.03
    peak_ratio: float = 0.25
    last_ratio: float = 0.13
    layer_ratios: tuple[float, ...] | None = None
    kv_rows: str = "generated"
    reuse: str = "delta"
    reference_rows: str = "all"
    warmup_steps: int = 0
    early_stop_steps: int | None = None
    slice_shift: bool = False

    def __post_init__(self) -> None:
        check_interval("refresh_steps", self.refresh_steps)
        check_interval("refresh_gen_steps", self.refresh_gen_steps)
        check_number("max_update_ratio", self.max_update_ratio, 0, 1)
        check_budget(self)
        check_choice("kv_rows", self.kv_rows, ("generated", "selected"))
        check_choice("reuse", self.reuse, ("delta", "output"))
        check_choice("reference_rows", self.reference_rows, ("all", "computed"))
        check_integer("warmup_steps", self.warmup_steps, 0)
        check_interval("early_stop_steps", self.early_stop_steps, optional=True)
        check_flag("slice_shift", self.slice_shift)


def check_budget(config) -> None:
    """Checks what this policy and ``composed`` share."""
    check_number("proxy_rank", config.proxy_rank, 0, 1e9)
    if config.proxy_rank == 0 or (config.proxy_rank > 1 and config.proxy_rank % 1):
        raise ValueError(
            "proxy_rank must be a positive integer, or a fraction of at most 1, "
            f"got {config.proxy_rank!r}"
        )
    check_number("min_update_ratio", config.min_update_ratio, 0, 1)
    check_choice("budget", config.budget, BUDGETS)
    check_number("peak", config.peak, 0.001, 0.999)
    for name in ("first_ratio", "peak_ratio", "last_ratio"):
        check_number(name, getattr(config, name), 1e-6, 1)
    ratios = config.layer_ratios
    if ratios is not None:
        if isinstance(ratios, (str, bytes)) or not isinstance(ratios, Iterable):
            raise ValueError(f"layer_ratios must be None or one ratio per layer, got {ratios!r}")
        for ratio in ratios:
            check_number("layer_ratios", ratio, 0, 1)


def layer_ratios(config, n_layers: int) -> tuple[float, ...]:
    """Budgets of this policy and of ``composed``, one ratio per layer."""
    if config.layer_ratios is not None:
        if len(config.layer_ratios) != n_layers:
            raise ValueError(
                f"layer_ratios must hold one ratio per layer ({n_layers}), "
                f"got {len(config.layer_ratios)}"
            )
        return tuple(config.layer_ratios)
    if config.budget == "uniform" or config.max_update_ratio == 0:
        return uniform(n_layers, config.max_update_ratio)
    return split_gaussian(
        n_layers,
        peak=config.peak,
        first_ratio=config.first_ratio,
        peak_ratio=config.peak_ratio,
        last_ratio=config.last_ratio,
        max_update_ratio=config.max_update_ratio,
        min_update_ratio=config.min_update_ratio,
    )


@register_policy("spa")
class Spa(CachePolicy):
    """Computes the rows whose singular proxy drifted most, within a budget (SPA-Cache)."""

    Config = SpaConfig

    @property
    def pad_steps(self) -> int | None:
        return self.config.early_stop_steps

    def stack_spec(self, n_layers: int) -> StackSpec:
        config = self.config
        return StackSpec(
            selection=SelectionSpec(
                ratios=layer_ratios(config, n_layers),
                proxy_rank=config.proxy_rank,
                kv_rows="carried" if config.kv_rows == "generated" else "selected",
                reuse=config.reuse,
                reference_rows=config.reference_rows,
            )
        )

    def plan_slot(self, view: SlotView) -> SlotPlan:
        config = self.config
        if view.step % config.refresh_steps == 0 or view.step <= config.warmup_steps:
            return SlotPlan(0, view.length, refresh=True)
        inside = config.slice_shift and view.shift > 0
        begin = view.prompt_length if inside else view.prompt_length - view.shift
        fresh = view.step % config.refresh_gen_steps == 0
        return SlotPlan(begin, view.length, refresh=fresh, sparse=not fresh, slice_shift=inside)

    @classmethod
    def exact_config(cls) -> SpaConfig:
        return SpaConfig(refresh_steps=1)
