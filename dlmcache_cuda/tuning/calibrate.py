"""calibrate(): the cheapest settings of a cache that keep what the user wants kept."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

from torch import Tensor

from dlmcache_cuda.decoding.arguments import check_batch_size, check_seeds
from dlmcache_cuda.decoding.prompts import tokenize_prompts
from dlmcache_cuda.model import Llada
from dlmcache_cuda.policies import Cache, PolicyConfig, make_policy
from dlmcache_cuda.tuning.bounds import least_upper_bound
from dlmcache_cuda.tuning.calibration import Calibration
from dlmcache_cuda.tuning.decode_call import DecodeCall
from dlmcache_cuda.tuning.evaluator import Candidate, Evaluator, OutOfForwards
from dlmcache_cuda.tuning.grids import (
    BLOCK_POLICIES,
    MEAN_RATIOS,
    Room,
    block_lengths,
    configs,
    takes_measured_budgets,
)
from dlmcache_cuda.tuning.plain import plain
from dlmcache_cuda.tuning.progress import Progress, check_progress
from dlmcache_cuda.tuning.scoring import Score, check_functions
from dlmcache_cuda.tuning.search import FIRST_LOOK, Plan, Search
from dlmcache_cuda.tuning.state_file import StateFile
from dlmcache_cuda.tuning.trial import COSTS, Judge


def calibrate(
    model: Llada,
    prompts: Sequence[Any] | Tensor,
    *,
    cache: Cache,
    target: float = 0.99,
    score: Score | None = None,
    confidence: float = 0.9,
    cost: str = "rows",
    grid: Mapping[str, Sequence[Any]] | None = None,
    thresholds: Sequence[float] | None = None,
    search_block_lengths: Sequence[int] | None = None,
    held_out: float = 0.25,
    max_forwards: int = 50_000,
    state: str | os.PathLike[str] | None = None,
    seed: int | Sequence[int] = 0,
    batch_size: int | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Calibration:
    """Finds the cheapest settings of a cache under which responses stay what they are without it.

    The prompts are decoded without a cache, which is the reference; then with candidates from the
    policy's grid, of which most see a few prompts only (:mod:`dlmcache_cuda.tuning.search`). A part
    of the prompts is held out: the choice must hold there too.

    >>> found = dlmcache_cuda.calibrate(model, prompts, cache="elastic", gen_length=256)
    >>> print(found)  # the frontier that was explored
    >>> found.save("elastic.json")
    >>> out = dlmcache_cuda.decode(model, others, cache="elastic.json", gen_length=256)

    Args:
        model: from :func:`dlmcache_cuda.load`.
        prompts: at least two, as for ``decode``; typical ones, a dozen or more.
        cache: name of a policy, or its config object: settings that are not searched stay as there.
        target: in (0, 1): share of vanilla's tokens that must come out, averaged over tokens. With
            ``score``: 1 minus how much of the mean score may be lost.
        score: takes a prompt's index and a response's text and returns how good it is, 0 to 1.
            Default: tokens are compared with vanilla's.
        confidence: in [0.5, 1): the choice must reach the target with a one-sided bound at this
            confidence, over the prompts and over the tokens. Since losses are measured on a few
            prompts, this is the margin that makes the choice hold on others; 0.5: hardly any.
        cost: what must be small: ``rows`` computed, ``forwards`` (when every forward costs the
            same, as on a large GPU with one sequence), or ``seconds`` (this machine's; noisy).
        grid: values to try by setting, in place of the policy's own grid.
        thresholds: commit thresholds to try besides; compared with vanilla at the ``threshold`` of
            ``settings`` or without one.
        search_block_lengths: block lengths to try besides. Default: the given ``block_length``; for
            ``prefix`` and ``dual`` without one all powers of two from 4 to 64 that divide, and one
            block. The reference always has the block length of ``settings``.
        held_out: share of the prompts that the choice is confirmed by, in (0, 1); at least one.
        max_forwards: steps of sequences that the call may make; it never makes more. A first part
            decodes without a cache. Results from ``state`` count nothing.
        state: a file to keep results in, and to take them from: a call that was interrupted, or one
            with more prompts, other targets or grids, repeats nothing.
        seed: as for ``decode``. An integer also draws which prompts are held out.
        batch_size: as for ``decode``.
        progress: as for :func:`dlmcache_cuda.verify`.
        **settings: all other arguments of ``decode`` except ``callback`` and ``trace``.

    Returns:
        All trials and the choice. ``chosen`` is None when no settings hold, or when
        ``max_forwards`` ended the search before; then ``why_nothing()`` says what to change.

    Raises:
        TypeError, ValueError: an argument is not as above (nothing was computed); or the prompts
            are too few to show the target at all, or ``max_forwards`` too few for the reference.
    """
    _check(target, confidence, cost, held_out, max_forwards)
    target, confidence, held_out = map(float, (target, confidence, held_out))
    max_forwards, seed = int(max_forwards), plain(seed)
    check_functions(score=score)
    report = check_progress(progress)
    call = DecodeCall.of(model, cache, settings, "calibrate")
    checked = call.checked(model, "none")
    policy = make_policy(cache)
    prompt_ids = tokenize_prompts(model, prompts, checked.gen_length)
    count = len(prompt_ids)
    if count < 2:
        raise ValueError(f"prompts must be at least 2, one of them to be held out, got {count}")
    seeds = check_seeds(seed, count)
    check_batch_size(batch_size, count)
    overrides = _overrides(policy.name, call, checked.gen_length, thresholds, search_block_lengths)
    if grid is not None and not isinstance(grid, Mapping):
        raise TypeError(f"grid must be a mapping of settings to values to try, got {grid!r}")
    grid = dict(grid or {})
    # With made-up numbers first: an error in the grid must show before the reference is decoded.
    trial_room = Room(checked.gen_length, 8, 8, {})
    _checked(model, call, _candidates(policy, trial_room, grid, overrides))
    plan = _plan(count, held_out, seed)
    if score is not None:
        _check_reachable(target, confidence, len(plan.stages[-1]), "prompts")

    evaluator = Evaluator(
        model, call, prompt_ids, seeds, batch_size, StateFile(state), max_forwards, report
    )
    vanilla = Candidate(make_policy("none").config)
    room = _reference(evaluator, vanilla, plan, policy.config, grid, checked)
    if score is None:
        tokens = sum(
            len(response.visible)
            for response in evaluator.responses(vanilla, plan.stages[-1], "vanilla")
        )
        _check_reachable(target, confidence, tokens, "tokens")
    candidates = list(_candidates(policy, room, grid, overrides))
    # In a drawn order: where the forwards do not suffice for all, what was seen is from everywhere.
    random.Random(0).shuffle(candidates)
    judge = Judge(evaluator, vanilla, score, confidence)
    search = Search(judge, plan, 1 - target, cost)
    evaluator.reserve = int((1 - FIRST_LOOK) * (max_forwards - evaluator.forwards))
    search.first_look(candidates)
    evaluator.reserve = 0
    chosen = search.choose()
    return Calibration(
        model=model.name,
        policy=policy.name,
        settings=call.settings,
        target=target,
        confidence=confidence,
        measure="agreement" if score is None else "score",
        cost=cost,
        prompts=len(plan.stages[-1]),
        held_out=len(plan.held_out),
        forwards=evaluator.forwards,
        max_forwards=max_forwards,
        complete=search.complete or chosen is not None,
        candidates=len(candidates),
        trials=search.trials,
        chosen=chosen,
    )


def _check(target: float, confidence: float, cost: str, held_out: float, max_forwards: int) -> None:
    for name, value, allowed, valid in (
        ("target", target, "(0, 1)", lambda x: 0 < x < 1),
        ("held_out", held_out, "(0, 1)", lambda x: 0 < x < 1),
        ("confidence", confidence, "[0.5, 1)", lambda x: 0.5 <= x < 1),
    ):
        if not isinstance(value, Real) or isinstance(value, bool):
            raise TypeError(f"{name} must be a number in {allowed}, got {value!r}")
        if not valid(value):
            raise ValueError(f"{name} must be a number in {allowed}, got {value}")
    if cost not in COSTS:
        raise ValueError(f"cost must be one of {', '.join(COSTS)}, got {cost!r}")
    if not isinstance(max_forwards, Integral) or isinstance(max_forwards, bool):
        raise TypeError(f"max_forwards must be an integer >= 1, got {max_forwards!r}")
    if max_forwards < 1:
        raise ValueError(f"max_forwards must be an integer >= 1, got {max_forwards}")


def _check_reachable(target: float, confidence: float, units: float, name: str) -> None:
    """Refuses a target that would not be shown even if nothing at all were lost."""
    best = 1 - least_upper_bound(units, confidence) if units else 0.0
    if best < target:
        raise ValueError(
            f"target {target:g} cannot be shown with confidence {confidence:g} on {units:g} {name} "
            f"(without held-out ones): even if nothing is lost, no more than {best:.4f} can. Give "
            "more prompts, or a lower target or confidence"
        )


def _overrides(
    name: str,
    call: DecodeCall,
    gen_length: int,
    thresholds: Sequence[float] | None,
    lengths: Sequence[int] | None,
) -> list[tuple[tuple[str, Any], ...]]:
    """What is searched of the commit rule, cheapest first."""
    for what, values in (("thresholds", thresholds), ("search_block_lengths", lengths)):
        listed = isinstance(values, Iterable) and not isinstance(values, (str, bytes))
        if values is not None and not (listed and list(values)):
            raise ValueError(f"{what} must be a list of values to try, got {values!r}")
    if lengths is None and name in BLOCK_POLICIES and "block_length" not in call.settings:
        lengths = block_lengths(gen_length)
    axes = []
    if thresholds is not None:
        axes.append([("threshold", plain(value)) for value in thresholds])
    if lengths is not None:
        axes.append([("block_length", plain(value)) for value in lengths])
    return list(itertools.product(*axes))


def _candidates(
    policy: Any,
    room: Room,
    grid: Mapping[str, Sequence[Any]],
    overrides: Sequence[tuple[tuple[str, Any], ...]],
) -> Iterator[Candidate]:
    """All combinations, each once."""
    found = [
        Candidate(config, override)
        for override in overrides
        for config in configs(policy.name, policy.config, _room_of(room, override), grid)
    ]
    if len(found) == 1 and not overrides[0] and not grid:
        raise ValueError(
            f"cache {policy.name!r} has no settings to search: give thresholds, or another cache"
        )
    return iter(dict.fromkeys(found))


def _room_of(room: Room, override: Sequence[tuple[str, Any]]) -> Room:
    """The same with steps of a block as long as the override says."""
    length = dict(override).get("block_length")
    if not isinstance(length, int) or length < 1:
        return room
    steps = max(room.steps * length // room.gen_length, 1)
    return Room(room.gen_length, room.steps, steps, room.measured)


def _checked(model: Llada, call: DecodeCall, candidates: Iterator[Candidate]) -> None:
    """Refuses overrides that ``decode`` would refuse."""
    for candidate in candidates:
        call.checked(model, candidate.config, **dict(candidate.overrides))


def _plan(count: int, held_out: float, seed: int | Sequence[int]) -> Plan:
    order = list(range(count))
    random.Random(seed if isinstance(seed, int) else 0).shuffle(order)
    return Plan.of(order, min(max(round(held_out * count), 1), count - 1))


def _reference(
    evaluator: Evaluator,
    vanilla: Candidate,
    plan: Plan,
    base: PolicyConfig,
    grid: Mapping[str, Sequence[Any]],
    checked: Any,
) -> Room:
    """Decodes all prompts without a cache and measures what the grid has to fit."""
    prompts = [*plan.stages[-1], *plan.held_out]
    measured: Mapping[float, tuple[float, ...]] = {}
    try:
        responses = evaluator.responses(vanilla, prompts, "vanilla")
        if takes_measured_budgets(base) and not set(grid) & {"layer_ratios", "max_update_ratio"}:
            measured = evaluator.layer_ratios(plan.stages[0], MEAN_RATIOS)
    except OutOfForwards:
        raise ValueError(
            f"max_forwards={evaluator.max_forwards} is not enough to decode {len(prompts)} prompts "
            f"without a cache (made: {evaluator.forwards}): allow more, or give fewer prompts"
        ) from None
    steps = round(sum(response.forwards for response in responses) / len(responses))
    block_steps = max(steps * checked.block_length // checked.gen_length, 1)
    return Room(checked.gen_length, steps, block_steps, measured)
