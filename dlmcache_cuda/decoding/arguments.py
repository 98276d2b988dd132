"""Checks of decode()'s arguments, all of them before any work is done."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

from dlmcache_cuda.decoding.regions import Region
from dlmcache_cuda.decoding.seeds import fresh_seed, sequence_seed
from dlmcache_cuda.model import Llada
from dlmcache_cuda.policies import CachePolicy
from dlmcache_cuda.samplers import (
    ALGORITHMS,
    REMASKINGS,
    CommitRule,
    DreamSchedule,
    Factor,
    FixedK,
    Origin,
    Sampler,
    Threshold,
)

DEFAULT_BATCH_SIZE = 16
# More than any canvas has positions; schedules are tabulated by step.
MOST_STEPS = 2**20
# What Dream's README and its scripts for the Instruct model use.
DEFAULT_ALG = "entropy"


@dataclass(frozen=True, slots=True)
class DecodeSettings:
    """What a decoder is asked to do, checked and completed."""

    gen_length: int
    block_length: int
    sampler: Sampler
    stop_at_eos: bool
    callback: Callable[[Any], None] | None = None
    trace: bool = False
    cuda_graphs: bool = False
    drafts: bool = False
    """Whether the callback is told what is predicted at positions that stay masked."""
    canvas_steps: int | None = None
    """Steps over all blocks of a canvas that hold masks; None: what the sampler's rule says."""

    @property
    def num_blocks(self) -> int:
        return self.gen_length // self.block_length

    def rule_of(self, region: Region) -> CommitRule:
        """The commit rule of a sequence."""
        if self.canvas_steps is None:
            return self.sampler.rule
        blocks = region.num_blocks(self.block_length)
        return self.sampler.rule.over_steps(self.canvas_steps // blocks)


def check_integer(name: str, value: Any, minimum: int, maximum: int | None = None) -> int:
    """``value`` as an integer in ``[minimum, maximum]``; a maximum of None is no limit."""
    limits = f">= {minimum}" if maximum is None else f"in [{minimum}, {maximum}]"
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer {limits}, got {value!r}")
    if value < minimum or (maximum is not None and value > maximum):
        raise ValueError(f"{name} must be an integer {limits}, got {value}")
    return int(value)


def _number(name: str, value: Any, allowed: str, valid: Callable[[float], bool]) -> float:
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number {allowed}, got {value!r}")
    try:
        number = float(value)
    except OverflowError as error:
        got = f"an integer of {int(value).bit_length()} bits"
        raise ValueError(f"{name} must be a number {allowed}, got {got}") from error
    if not math.isfinite(number) or not valid(number):
        raise ValueError(f"{name} must be a number {allowed}, got {value}")
    return number


def _temperature(name: str, value: Any) -> float:
    # What is divided by it, or multiplied with it, must stay within float32.
    allowed = "that is 0 or from 1e-30 to 1e30"
    return _number(name, value, allowed, lambda x: x == 0 or 1e-30 <= x <= 1e30)


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return value


def _cuda_graphs(model: Llada, value: bool | None) -> bool:
    on_cuda = model.device.type == "cuda"
    if value is None:
        return on_cuda
    if _flag("cuda_graphs", value) and not on_cuda:
        raise ValueError(
            f"cuda_graphs=True needs a model on a CUDA device, got one on {model.device}"
        )
    return value


def check_settings(
    model: Llada,
    policy: CachePolicy,
    *,
    gen_length: int,
    block_length: int | None,
    steps: int | None,
    temperature: float,
    cfg_scale: float,
    remasking: str | None,
    threshold: float | None,
    factor: float | None,
    alg: str | None,
    alg_temp: float | None,
    top_p: float | None,
    top_k: int | None,
    min_commit: int | None,
    stop_at_eos: bool,
    callback: Callable[[Any], None] | None,
    trace: bool,
    cuda_graphs: bool | None,
    logits_eos_inf: bool,
    confidence_eos_eot_inf: bool,
    suppress_token_ids: Sequence[int] | None = None,
    regions: Sequence[Region] | None = None,
) -> DecodeSettings:
    """The settings of :func:`dlmcache_cuda.decode`, or an error that names the argument.

    Args:
        regions: the generation regions where canvases were given. ``gen_length`` is then that of
            the longest, and blocks need not divide any.
    """
    check_model(model)
    gen_length = check_integer("gen_length", gen_length, 1)
    if regions is not None:
        gen_length = max(len(region.ids) for region in regions)
    block_length, threshold = _calibrated(
        policy,
        None if regions is not None else gen_length,
        block_length,
        threshold,
        (steps, factor, alg, remasking),
    )
    block_length = (
        gen_length if block_length is None else check_integer("block_length", block_length, 1)
    )
    if regions is not None:
        block_length = min(block_length, gen_length)
    elif gen_length % block_length:
        raise ValueError(f"block_length must divide gen_length ({gen_length}), got {block_length}")
    _check_policy(model, policy, remasking)
    llada_only = {"remasking": remasking, "threshold": threshold, "factor": factor}
    if confidence_eos_eot_inf is True:
        llada_only["confidence_eos_eot_inf"] = True
    unasked = all(value is None for value in llada_only.values()) and policy.remasking is None
    if alg is None and model.shift and unasked:
        alg = "maskgit_plus" if policy.ranks else DEFAULT_ALG
    dream = _dream_settings(
        alg, llada_only, alg_temp=alg_temp, top_p=top_p, top_k=top_k, min_commit=min_commit
    )
    _check_alg_of_policy(policy, alg, alg_temp)
    min_commit = dream.pop("min_commit", 0)
    if remasking is None:
        remasking = policy.remasking or "low_confidence"
    if remasking not in REMASKINGS:
        raise ValueError(f"remasking must be one of {', '.join(REMASKINGS)}, got {remasking!r}")
    if callback is not None and not callable(callback):
        raise TypeError(f"callback must be callable or None, got {type(callback).__name__}")
    temperature = _temperature("temperature", temperature)
    end_ids = model.end_token_ids
    suppress = _suppressed(model, suppress_token_ids)
    if _flag("logits_eos_inf", logits_eos_inf):
        suppress = tuple(dict.fromkeys((*suppress, *end_ids[:1])))
    without_confidence: tuple[int, ...] = ()
    if _flag("confidence_eos_eot_inf", confidence_eos_eot_inf):
        # The reference puts -inf into the noised logits for the first id and into the plain ones
        # for the others; without noise both are one tensor.
        without_confidence = tuple(end_ids if temperature == 0 else end_ids[1:])
    sampler = Sampler(
        rule=_commit_rule(
            gen_length // block_length,
            gen_length,
            steps,
            threshold,
            factor,
            remasking,
            alg,
            min_commit,
            block_length,
            regions,
        ),
        remasking=remasking,
        temperature=temperature,
        cfg_scale=_number("cfg_scale", cfg_scale, "in [0, 1e6]", lambda x: 0 <= x <= 1e6),
        suppress_ids=suppress,
        confidence_suppress_ids=without_confidence,
        **dream,
    )
    return DecodeSettings(
        gen_length,
        block_length,
        sampler,
        _flag("stop_at_eos", stop_at_eos),
        callback,
        _flag("trace", trace),
        _cuda_graphs(model, cuda_graphs),
        canvas_steps=None if regions is None else steps,
    )


def _calibrated(
    policy: CachePolicy,
    gen_length: int | None,
    block_length: int | None,
    threshold: float | None,
    others: Sequence[Any],
) -> tuple[int | None, float | None]:
    """Block length and threshold that a calibrated cache was found with, where none are given.

    Args:
        gen_length: what blocks must divide; None: they need not.
        others: the other arguments that say what is committed: with one of them no threshold is
            filled in.
    """
    found = policy.decoding
    if block_length is None:
        block_length = found.get("block_length")
        if block_length is not None:
            block_length = check_integer("the cache's block_length", block_length, 1)
        if block_length and gen_length and gen_length % block_length:
            raise ValueError(
                f"the cache was calibrated with block_length={block_length}, which does not divide "
                f"gen_length ({gen_length}): change gen_length or give a block_length"
            )
    if threshold is None and all(value is None for value in others):
        threshold = found.get("threshold")
    return block_length, threshold


def _suppressed(model: Llada, ids: Sequence[int] | None) -> tuple[int, ...]:
    if ids is None:
        return model.suppress_token_ids
    if isinstance(ids, (str, bytes)) or not isinstance(ids, Sequence):
        raise TypeError(f"suppress_token_ids must be a list of token ids or None, got {ids!r}")
    vocab = model.config.embedding_size
    for token in ids:
        if not isinstance(token, Integral) or isinstance(token, bool):
            raise TypeError(f"suppress_token_ids must hold integers, got {token!r}")
        if not 0 <= token < vocab:
            raise ValueError(
                f"suppress_token_ids holds {token}; ids of this model are 0 to {vocab - 1}"
            )
    return tuple(dict.fromkeys(int(token) for token in ids))


def check_one_of(caller: str = "decode", /, **given: Any) -> None:
    """Refuses calls that give none or several of these arguments."""
    named = [name for name, value in given.items() if value is not None]
    if len(named) != 1:
        *others, last = given
        got = " and ".join(named) or ("neither" if len(given) == 2 else "none")
        raise TypeError(f"{caller} takes one of {', '.join(others)} and {last}, got {got}")


def check_model(model: Any) -> None:
    """Refuses anything but a loaded model."""
    if not isinstance(model, Llada):
        raise TypeError(
            f"model must be what dlmcache_cuda.load() returns, got {type(model).__name__}"
        )


def _check_policy(model: Llada, policy: CachePolicy, remasking: str | None) -> None:
    if model.shift not in policy.shifts:
        raise ValueError(
            f"cache {policy.name!r} is not defined for models that predict the following token "
            f"({model.config.model_type})"
        )
    if policy.remasking is not None and remasking not in (None, policy.remasking):
        raise ValueError(
            f"cache {policy.name!r} needs remasking={policy.remasking!r}, got {remasking!r}"
        )
    if remasking == "random_order" and not policy.follows_any_order:
        raise ValueError(
            f"cache {policy.name!r} chooses which masks it computes and cannot follow "
            "remasking='random_order'"
        )


def _check_alg_of_policy(policy: CachePolicy, alg: str | None, alg_temp: float | None) -> None:
    if alg is None:
        return
    if policy.remasking is not None:
        raise ValueError(
            f"cache {policy.name!r} needs remasking={policy.remasking!r}, got alg={alg!r}"
        )
    if policy.ranks and (alg != "maskgit_plus" or alg_temp):
        raise ValueError(
            f"cache {policy.name!r} ranks positions by confidences of its own and needs "
            f"alg='maskgit_plus' without alg_temp, got alg={alg!r} and alg_temp={alg_temp!r}"
        )


def _steps_per_block(num_blocks: int, steps: int) -> int:
    if steps % num_blocks:
        raise ValueError(
            f"steps must be a multiple of the number of blocks ({num_blocks} = gen_length / "
            f"block_length), got {steps}"
        )
    return steps // num_blocks


def _check_canvas_steps(steps: int | None, block_length: int, regions: Sequence[Region]) -> None:
    if steps is None:
        return
    for index, region in enumerate(regions):
        blocks = region.num_blocks(block_length)
        if steps % blocks:
            raise ValueError(
                f"steps must be a multiple of the number of blocks that hold masks ({blocks} in "
                f"canvas[{index}]), got {steps}"
            )


def _commit_rule(
    num_blocks: int,
    gen_length: int,
    steps: int | None,
    threshold: float | None,
    factor: float | None,
    remasking: str,
    alg: str | None,
    min_commit: int,
    block_length: int,
    regions: Sequence[Region] | None,
) -> CommitRule:
    if threshold is not None and factor is not None:
        raise ValueError(
            f"threshold and factor exclude each other, got threshold={threshold!r} and "
            f"factor={factor!r}"
        )
    for name, value in (("threshold", threshold), ("factor", factor)):
        if value is not None and remasking != "low_confidence":
            raise ValueError(
                f"{name} compares confidences and needs remasking='low_confidence', "
                f"got remasking={remasking!r}"
            )
    if steps is not None:
        steps = check_integer("steps", steps, 1, MOST_STEPS)
    if threshold is not None:
        return Threshold(_number("threshold", threshold, "in (0, 1]", lambda value: 0 < value <= 1))
    if factor is not None:
        return Factor(_number("factor", factor, "> 0", lambda value: value > 0))
    if regions is not None:
        _check_canvas_steps(steps, block_length, regions)
        steps_per_block = None  # each canvas has its own, see DecodeSettings.rule_of
    else:
        steps_per_block = _steps_per_block(num_blocks, gen_length if steps is None else steps)
    if alg is None:
        return FixedK(steps_per_block)
    if alg == "origin":
        return Origin(steps_per_block)
    return DreamSchedule(steps_per_block, min_commit)


def _dream_settings(alg: str | None, llada_only: dict[str, Any], **options: Any) -> dict[str, Any]:
    """The given ones of Dream's settings, checked; nothing without ``alg``."""
    given = {name: value for name, value in options.items() if value is not None}
    if alg is None:
        for name, value in given.items():
            raise ValueError(
                f"{name} belongs to alg ({', '.join(ALGORITHMS)}), got {name}={value!r} without it"
            )
        return {}
    if not isinstance(alg, str) or alg not in ALGORITHMS:
        raise ValueError(f"alg must be one of {', '.join(ALGORITHMS)}, or None, got {alg!r}")
    for name, value in llada_only.items():
        if value is not None:
            raise ValueError(
                f"alg and {name} exclude each other, got alg={alg!r} and {name}={value!r}"
            )
    for name in ("alg_temp", "min_commit"):
        if alg == "origin" and name in given:
            raise ValueError(
                f"alg='origin' draws the positions it commits, so {name} has no meaning there, "
                f"got {name}={given[name]!r}"
            )
    checks = {
        "alg_temp": _temperature,
        "top_p": lambda name, value: _number(name, value, "in (0, 1]", lambda x: 0 < x <= 1),
        "top_k": lambda name, value: check_integer(name, value, 1, 2**31 - 1),
        "min_commit": lambda name, value: check_integer(name, value, 0, 2**31 - 1),
    }
    return {"alg": alg} | {name: checks[name](name, value) for name, value in given.items()}


def check_seeds(seed: int | Sequence[int] | None, num_prompts: int) -> list[int]:
    """One seed per prompt from what the user gave."""
    if seed is None:
        seed = fresh_seed()
    if isinstance(seed, Integral) and not isinstance(seed, bool):
        if not 0 <= seed < 2**63:
            raise ValueError(f"seed must be in [0, 2^63), got {seed}")
        return [sequence_seed(int(seed), index) for index in range(num_prompts)]
    if isinstance(seed, (str, bytes)) or not isinstance(seed, Sequence):
        raise TypeError(f"seed must be an integer, one integer per prompt, or None, got {seed!r}")
    if len(seed) != num_prompts:
        raise ValueError(
            f"seed must hold one integer per prompt ({num_prompts}), got {len(seed)} of them"
        )
    for value in seed:
        if not isinstance(value, Integral) or isinstance(value, bool) or not 0 <= value < 2**63:
            raise ValueError(f"seed must hold integers in [0, 2^63), got {value!r}")
    return [int(value) for value in seed]


def check_batch_size(batch_size: int | None, num_prompts: int) -> int:
    """Number of slots: at most one per prompt."""
    if batch_size is None:
        return min(num_prompts, DEFAULT_BATCH_SIZE)
    return min(num_prompts, check_integer("batch_size", batch_size, 1))
