"""Decodes prompts with candidates, once each, and never more forwards than allowed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dlmcache_cuda.decoding import decode
from dlmcache_cuda.decoding.arguments import DEFAULT_BATCH_SIZE
from dlmcache_cuda.decoding.measure import measure_drifts, ratios_of_drift
from dlmcache_cuda.model import Llada
from dlmcache_cuda.policies import PolicyConfig, policy_of
from dlmcache_cuda.tuning.decode_call import DecodeCall
from dlmcache_cuda.tuning.model_key import model_key
from dlmcache_cuda.tuning.progress import Progress
from dlmcache_cuda.tuning.state_file import StateFile, key_of


class OutOfForwards(Exception):
    """The next forward would be one too many."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """One way to decode: a cache, and what of the commit rule is searched too.

    Attributes:
        config: settings of the policy.
        overrides: arguments of ``decode`` that differ from the ones of the calibration.
    """

    config: PolicyConfig
    overrides: tuple[tuple[str, Any], ...] = ()

    @property
    def label(self) -> str:
        """The settings that are not the policy's defaults, and the overrides, as text."""
        default = type(self.config)()
        parts = []
        for field in dataclasses.fields(self.config):
            value = getattr(self.config, field.name)
            if value != getattr(default, field.name):
                parts.append(f"{field.name}={_short(value)}")
        parts += [f"{name}={_short(value)}" for name, value in self.overrides]
        return " ".join(parts) or "defaults"


def _short(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{len(value)} measured, mean {sum(value) / len(value):.2f}]"
    return f"{value:g}" if isinstance(value, float) else str(value)


@dataclass(frozen=True, slots=True)
class Response:
    """What came of one prompt.

    Attributes:
        ids: ``[G]`` the generation region.
        visible: tokens before the first end.
        forwards, rows: steps, and rows computed over all layers.
        seconds: its share of the time of the call that it was decoded in.
    """

    ids: list[int]
    visible: list[int]
    forwards: int
    rows: int
    seconds: float

    @classmethod
    def from_dict(cls, content: Any) -> Response:
        """
        Raises:
            ValueError: it is not what ``dataclasses.asdict`` made of one.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(content, dict) or content.keys() != names:
            raise ValueError(f"a response has {', '.join(sorted(names))}, got {content!r}")
        found = cls(**content)
        if not (
            _are(int, found.ids)
            and _are(int, found.visible)
            and _are(int, [found.forwards, found.rows])
            and _are(int | float, [found.seconds])
        ):
            raise ValueError(f"a field of a response is of another type, got {content!r}")
        return found


class Evaluator:
    """Runs candidates on prompts and remembers what came out.

    Args:
        call: settings of all candidates.
        prompt_ids, seeds: one of each per prompt.
        state: where results are kept.
        batch_size: prompts in flight; None: as ``decode``.
        max_forwards: steps of sequences that may be made in all; results of the state are free.
        progress: told what is run.

    Attributes:
        forwards: steps of sequences that were made.
        reserve: of those that may be made, how many are kept back for later.
    """

    def __init__(
        self,
        model: Llada,
        call: DecodeCall,
        prompt_ids: Sequence[Tensor],
        seeds: Sequence[int],
        batch_size: int | None,
        state: StateFile,
        max_forwards: int,
        progress: Progress,
    ) -> None:
        self.model, self.call = model, call
        self.prompt_ids, self.seeds = prompt_ids, seeds
        self.forwards = 0
        self.reserve = 0
        self.max_forwards = max_forwards
        self._batch_size = batch_size or DEFAULT_BATCH_SIZE
        self._state, self._progress = state, progress
        self._model_key = model_key(model)

    def responses(self, candidate: Candidate, prompts: Sequence[int], what: str) -> list[Response]:
        """What the candidate answers to the prompts of these indices.

        Raises:
            OutOfForwards: it takes more forwards than are left; what is finished is kept.
        """
        keys = [self._key(candidate, index) for index in prompts]
        missing = [
            (key, index)
            for key, index in zip(keys, prompts, strict=True)
            if self._state.get(key) is None
        ]
        for begin in range(0, len(missing), self._batch_size):
            part = missing[begin : begin + self._batch_size]
            done = len(prompts) - len(missing) + begin
            self._progress(what, done, len(prompts))
            self._decode(candidate, part)
        self._progress(what, len(prompts), len(prompts))
        return [self._response(key) for key in keys]

    def layer_ratios(self, prompts: Sequence[int], means: Sequence[float]) -> dict[float, tuple]:
        """Budgets per layer that average to ``means``, from the model's drift on the prompts.

        Raises:
            OutOfForwards: as :meth:`responses`.
        """
        parts = [self._prompt_key(index) for index in prompts]
        key = key_of("layer ratios", self._model_key, dict(self.call.settings), parts, list(means))
        if self._state.get(key) is None:
            settings = self.call.checked(self.model, "none", callback=self._counter(len(prompts)))
            self._progress("measuring drift", 0, len(prompts))
            drifts = measure_drifts(
                self.model,
                settings,
                [self.prompt_ids[index] for index in prompts],
                [self.seeds[index] for index in prompts],
                min(len(prompts), self._batch_size),
            )
            floor = min(*means, 1 / 16)
            self._state.put(key, [ratios_of_drift(drifts, mean, floor) for mean in means])
        found = self._state.get(key)
        layers = len(self.model.layers)
        if (
            not _are(list | tuple, found)
            or len(found) != len(means)
            or not all(len(ratios) == layers and _are(int | float, ratios) for ratios in found)
        ):
            raise self._state.damaged(key)
        return {mean: tuple(ratios) for mean, ratios in zip(means, found, strict=True)}

    def _response(self, key: str) -> Response:
        """What is recorded under a key."""
        try:
            return Response.from_dict(self._state.get(key))
        except ValueError as error:
            raise self._state.damaged(key) from error

    def _prompt_key(self, index: int) -> list[Any]:
        return [self.prompt_ids[index].tolist(), self.seeds[index]]

    def _key(self, candidate: Candidate, index: int) -> str:
        return key_of(
            self._model_key,
            policy_of(candidate.config).name,
            dataclasses.asdict(candidate.config),
            dict(self.call.settings) | dict(candidate.overrides),
            self._prompt_key(index),
        )

    def _decode(self, candidate: Candidate, part: Sequence[tuple[str, int]]) -> None:
        out = decode(
            self.model,
            [self.prompt_ids[index] for _, index in part],
            cache=candidate.config,
            seed=[self.seeds[index] for _, index in part],
            batch_size=len(part),
            callback=self._counter(len(part)),
            **dict(self.call.settings) | dict(candidate.overrides),
        )
        seconds = out.stats.seconds["total"] / len(part)
        for (key, _), sequence in zip(part, out.sequences, strict=True):
            response = Response(
                ids=sequence.ids.tolist(),
                visible=sequence.visible_ids.tolist(),
                forwards=sequence.forwards,
                rows=sequence.rows_computed,
                seconds=seconds,
            )
            self._state.put(key, dataclasses.asdict(response))

    def _counter(self, sequences: int):
        """A callback that counts steps and ends a call before it takes one too many."""
        self._check(sequences)
        left = sequences

        def on_step(event: Any) -> None:
            nonlocal left
            self.forwards += len(event.updates)
            left -= sum(update.stop_reason is not None for update in event.updates)
            self._check(left)

        return on_step

    def _check(self, sequences: int) -> None:
        """Refuses a forward of that many sequences that is not allowed any more."""
        if self.forwards + sequences > self.max_forwards - self.reserve:
            raise OutOfForwards


def _are(kind: Any, values: Any) -> bool:
    """Whether it is a list, or a tuple, of values of that kind."""
    return isinstance(values, list | tuple) and all(
        isinstance(value, kind) and not isinstance(value, bool) for value in values
    )


def as_ids(ids: Sequence[int]) -> Tensor:
    """``[n]`` int64."""
    return torch.tensor(list(ids), dtype=torch.int64)
