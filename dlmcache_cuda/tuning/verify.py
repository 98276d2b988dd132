"""verify(): what a cache changes on the user's own prompts."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

from torch import Tensor

from dlmcache_cuda.decoding import DecodedSequence, decode
from dlmcache_cuda.decoding.arguments import check_batch_size, check_seeds
from dlmcache_cuda.decoding.memory import slot_capacity
from dlmcache_cuda.decoding.prompts import tokenize_prompts
from dlmcache_cuda.model import Llada
from dlmcache_cuda.policies import Cache, make_policy
from dlmcache_cuda.tuning.comparison import (
    SequenceComparison,
    compare_tokens,
    first_differing_step,
    first_reordered_step,
)
from dlmcache_cuda.tuning.decode_call import DecodeCall
from dlmcache_cuda.tuning.divergence import Divergence, DivergenceDecoder, run
from dlmcache_cuda.tuning.progress import Progress, check_progress
from dlmcache_cuda.tuning.scoring import Answer, Score, answer_of, check_functions, score_of
from dlmcache_cuda.tuning.verification import Verification


def verify(
    model: Llada,
    prompts: str | Sequence[Any] | Tensor,
    *,
    cache: Cache,
    answers: Answer | None = None,
    score: Score | None = None,
    kl_steps: int | None = 64,
    repeats: int = 3,
    seed: int | Sequence[int] | None = 0,
    batch_size: int | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> Verification:
    """Decodes prompts without and with a cache and compares what comes out.

    Both runs have the same settings and seeds; a cache that is defined for an order of commits of
    its own (``dkv-greedy``) is compared with vanilla in that order.

    >>> result = dlmcache_cuda.verify(model, prompts, cache="elastic", gen_length=256)
    >>> print(result)
    >>> result.agreement, result.divergence.mean, result.rows_relative, result.speed_up

    Args:
        model: from :func:`dlmcache_cuda.load`.
        prompts: as for ``decode``.
        cache: as for ``decode``.
        answers: takes a response's text and returns the answer in it, for ``answers_equal``.
            Default: the visible text without space at its ends.
        score: takes a prompt's index and a response's text and returns how good it is, 0 to 1.
            Default: none is computed.
        kl_steps: steps of a sequence, over all prompts together and evenly spread, for which the
            distributions are compared (one more forward of the canvas each); None: all steps;
            0: no comparison.
        repeats: timed pairs of runs, vanilla and cached in turn. 0: no times. On a GPU one pair
            more is run first, which captures the graphs.
        seed, batch_size: as for ``decode``; the seed is 0 if nothing is said.
        progress: called with what is being done, how many prompts of it are done, and how many
            there are.
        **settings: all other arguments of ``decode`` except ``callback`` and ``trace``.

    Raises:
        TypeError, ValueError: an argument is not as above; nothing was computed.
        Otherwise as ``decode``.
    """
    check_functions(answers, score)
    _count("kl_steps", kl_steps, optional=True)
    _count("repeats", repeats)
    report = check_progress(progress)
    call = DecodeCall.of(model, cache, settings, "verify")
    gen_length = call.checked(model, cache).gen_length
    call.checked(model, "none")
    prompt_ids = tokenize_prompts(model, prompts, gen_length)
    seeds = check_seeds(seed, len(prompt_ids))
    check_batch_size(batch_size, len(prompt_ids))

    def decoded(what: str, chosen: Cache):
        return _decode(model, prompt_ids, chosen, seeds, batch_size, call, what, report)

    vanilla = decoded("vanilla", "none").sequences
    forwards = sum(sequence.forwards for sequence in vanilla)
    divergence = None
    if kl_steps == 0:
        cached = decoded("cached", cache).sequences
    else:
        cached, divergence = _diverging(
            model, prompt_ids, cache, seeds, batch_size, call, forwards, kl_steps, report
        )
    seconds: dict[str, list[float]] = {"vanilla": [], "cached": []}
    warm_up = model.device.type == "cuda"
    for repeat in range(repeats + (warm_up and repeats > 0)):
        for name, chosen in (("vanilla", "none"), ("cached", cache)):
            what = f"timing {name}, {repeat + 1}"
            seconds[name].append(decoded(what, chosen).stats.seconds["total"])
    return Verification(
        model=model.name,
        config=make_policy(cache).config,
        settings=call.settings,
        sequences=[
            _compare(index, pair, model.end_token_ids, answers, score)
            for index, pair in enumerate(zip(vanilla, cached, strict=True))
        ],
        divergence=divergence,
        seconds=seconds["cached"][warm_up:],
        seconds_vanilla=seconds["vanilla"][warm_up:],
    )


def _count(name: str, value: Any, *, optional: bool = False) -> None:
    if optional and value is None:
        return
    allowed = f"{'None or ' if optional else ''}an integer >= 0"
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be {allowed}, got {value!r}")
    if value < 0:
        raise ValueError(f"{name} must be {allowed}, got {value}")


def _decode(
    model: Llada,
    prompt_ids: Sequence[Tensor],
    cache: Cache,
    seeds: Sequence[int],
    batch_size: int | None,
    call: DecodeCall,
    what: str,
    report: Progress,
):
    done, total = 0, len(prompt_ids)

    def on_step(event: Any) -> None:
        nonlocal done
        ended = sum(update.stop_reason is not None for update in event.updates)
        if ended:
            done += ended
            report(what, done, total)

    report(what, 0, total)
    return decode(
        model,
        list(prompt_ids),
        cache=cache,
        seed=seeds,
        batch_size=batch_size,
        callback=on_step,
        **call.settings,
    )


def _diverging(
    model: Llada,
    prompt_ids: Sequence[Tensor],
    cache: Cache,
    seeds: Sequence[int],
    batch_size: int | None,
    call: DecodeCall,
    forwards: int,
    kl_steps: int | None,
    report: Progress,
) -> tuple[list[DecodedSequence], Divergence | None]:
    """The cached run, with every so-many-th step compared; ``forwards`` is vanilla's number."""
    total = len(prompt_ids)
    longest = max(ids.numel() for ids in prompt_ids)
    settings = call.checked(model, cache, cuda_graphs=False)
    decoder = DivergenceDecoder(
        model,
        make_policy(cache),
        settings,
        num_slots=check_batch_size(batch_size, total),
        capacity=slot_capacity(longest + settings.gen_length),
        stride=1 if kl_steps is None else max(forwards // kl_steps, 1),
        limit=kl_steps,
    )
    report("cached", 0, total)
    cached = run(decoder, prompt_ids, seeds, lambda done: report("cached", done, total))
    return cached, decoder.divergence


def _compare(
    index: int,
    pair: tuple[DecodedSequence, DecodedSequence],
    end_token_ids: Sequence[int],
    answers: Answer | None,
    score: Score | None,
) -> SequenceComparison:
    vanilla, cached = pair
    difference = compare_tokens(cached.ids, vanilla.ids, end_token_ids)
    scores = [None if score is None else score_of(index, sequence.text, score) for sequence in pair]
    return SequenceComparison(
        prompt=index,
        tokens=difference.tokens,
        equal_tokens=difference.tokens - difference.differing,
        first_differing_position=difference.first_position,
        first_differing_step=first_differing_step(vanilla, cached, difference.tokens),
        first_reordered_step=first_reordered_step(vanilla, cached, difference.tokens),
        answers_equal=answer_of(vanilla, answers) == answer_of(cached, answers),
        forwards=cached.forwards,
        forwards_vanilla=vanilla.forwards,
        rows=cached.rows_computed,
        rows_vanilla=vanilla.rows_computed,
        text=cached.text,
        text_vanilla=vanilla.text,
        score=scores[1],
        score_vanilla=scores[0],
    )
