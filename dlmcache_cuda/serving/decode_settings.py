"""How a sequence is decoded: the server's settings, and what a request changes of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dlmcache_cuda.decoding.arguments import check_settings
from dlmcache_cuda.decoding.defaults import decode_defaults
from dlmcache_cuda.model import Llada
from dlmcache_cuda.policies import CalibratedCache, PolicyConfig, make_policy, policy_named
from dlmcache_cuda.policies.vanilla import VanillaConfig
from dlmcache_cuda.serving.errors import bad_request

DEFAULT_BLOCK_LENGTH = 32
# A request that names one of these takes back what the server says of the others.
_REPLACES = {
    "steps": ("threshold", "factor"),
    "threshold": ("steps", "factor", "alg", "alg_temp", "top_p", "top_k", "min_commit"),
    "factor": ("steps", "threshold", "alg", "alg_temp", "top_p", "top_k", "min_commit"),
    "alg": ("threshold", "factor", "remasking"),
}


@dataclass(frozen=True, slots=True)
class LaneSettings:
    """Arguments of :func:`dlmcache_cuda.decode` that sequences of one lane have in common.

    Attributes:
        block_length: positions of a block; None: each sequence is one block.
        steps_per_block: ``steps`` divided by the number of blocks; None: one token per step.
        All others as for ``decode``.
    """

    cache: PolicyConfig = field(default_factory=VanillaConfig)
    block_length: int | None = DEFAULT_BLOCK_LENGTH
    steps_per_block: int | None = None
    temperature: float = 0.0
    cfg_scale: float = 0.0
    remasking: str | None = None
    threshold: float | None = None
    factor: float | None = None
    alg: str | None = None
    alg_temp: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_commit: int | None = None
    logits_eos_inf: bool = False
    confidence_eos_eot_inf: bool = False
    cuda_graphs: bool | None = None

    def arguments(self, gen_length: int) -> dict[str, Any]:
        """Keyword arguments of ``decode`` for sequences of up to ``gen_length`` positions."""
        names = [field.name for field in dataclasses.fields(self)]
        values = {name: getattr(self, name) for name in names if name != "steps_per_block"}
        if self.steps_per_block is not None:
            blocks = gen_length // (self.block_length or gen_length)
            values["steps"] = self.steps_per_block * blocks
        return values | {"gen_length": gen_length}

    def longest(self, max_gen_length: int) -> int:
        """Most positions, in whole blocks, that are not more than ``max_gen_length``."""
        return max_gen_length - max_gen_length % (self.block_length or 1)

    def whole_blocks(self, max_tokens: int) -> int:
        """Positions to decode for ``max_tokens`` tokens: whole blocks."""
        block_length = self.block_length or 1
        return -(-max_tokens // block_length) * block_length


def settings_of_options(options: Mapping[str, Any]) -> LaneSettings:
    """The settings that arguments of ``decode`` stand for; those that are no settings are left out.

    A calibrated cache brings the block length and the threshold that it was found with, where
    ``options`` leave them open, as for ``decode``.
    """
    names = {field.name for field in dataclasses.fields(LaneSettings)}
    values = {name: value for name, value in options.items() if name in names}
    cache = values["cache"]
    found: Mapping[str, Any] = {}
    if isinstance(cache, CalibratedCache):
        values["cache"], found = cache.config, cache.decode
    if values["block_length"] is None:
        values["block_length"] = found.get("block_length") or DEFAULT_BLOCK_LENGTH
    rules = ("threshold", "steps", "factor", "alg", "remasking")
    if all(options[name] is None for name in rules):
        values["threshold"] = found.get("threshold")
    return LaneSettings(**values)


def lane_settings(
    model: Llada,
    base: LaneSettings,
    given: Mapping[str, Any],
    max_tokens: int,
    max_length: int,
) -> tuple[LaneSettings, int]:
    """The settings of a request, and its ``gen_length``.

    Args:
        base: the settings of the server.
        given: arguments of ``decode`` by name; None leaves the server's.
        max_tokens: tokens that are asked for.
        max_length: positions of a slot. Steps, rows and windows beyond it mean nothing and could
            cost the server any amount of memory.

    Raises:
        ApiError: 400; ``decode`` would refuse them.
    """
    values = {name: value for name, value in given.items() if value is not None}
    if values.get("top_p") == 1:
        values["top_p"] = None  # OpenAI's way to say: all tokens
    for name, others in _REPLACES.items():
        if name in values:
            values = dict.fromkeys(others) | values
    steps = values.pop("steps", None)
    if "threshold" in values or "factor" in values or steps is not None:
        values["steps_per_block"] = None
    if "cache" in values:
        values["cache"] = cache_from_json(values["cache"], max_length)
    for name, most in (("min_commit", max_length), ("top_k", model.config.embedding_size)):
        if (values.get(name) or 0) > most:
            raise bad_request(f"{name} must be at most {most} here, got {values[name]}", name)
    settings = dataclasses.replace(base, **values)
    # Before it divides; with a length that is never wrong, so that a block_length is blamed itself.
    _check(model, settings, {"gen_length": max(settings.block_length or 1, 1)})
    gen_length = settings.whole_blocks(max_tokens)
    if steps is None:
        return settings, gen_length
    _check(model, settings, {"gen_length": gen_length, "steps": steps})
    if steps > gen_length:
        raise bad_request(
            f"steps must be at most the positions to decode ({gen_length}), got {steps}", "steps"
        )
    block_length = settings.block_length or gen_length
    return (
        dataclasses.replace(
            settings,
            block_length=block_length,
            steps_per_block=steps // (gen_length // block_length),
        ),
        gen_length,
    )


def _check(model: Llada, settings: LaneSettings, changed: dict[str, Any]) -> None:
    arguments = decode_defaults() | settings.arguments(changed["gen_length"]) | changed
    try:
        check_settings(model, make_policy(arguments.pop("cache")), **arguments)
    except (ValueError, TypeError) as error:
        raise bad_request(str(error), _first_word(str(error))) from error


def _first_word(message: str) -> str | None:
    """The argument that an error of ``decode`` is about: by custom its first word."""
    word = message.partition(" ")[0]
    return word if word in decode_defaults() or word == "cache" else None


def cache_from_json(value: Any, max_length: int) -> PolicyConfig:
    """The config that ``"dual"`` or ``{"name": "elastic", "gamma": 0.9}`` stands for.

    Args:
        max_length: the largest integer that a setting may be.

    Raises:
        ApiError: 400.
    """
    settings = {"name": value} if isinstance(value, str) else value
    if not isinstance(settings, Mapping) or not isinstance(settings.get("name"), str):
        raise bad_request(
            'cache must be a name or an object {"name": NAME, SETTING: VALUE, ...}, '
            f"got {value!r}",
            "cache",
        )
    settings = dict(settings)
    name = settings.pop("name")
    try:
        config_type = policy_named(name).Config  # make_policy would read a client's file names
        known = [field.name for field in dataclasses.fields(config_type)]
        for key in settings:
            if key not in known:
                allowed = ", ".join(known) or "it has none"
                raise ValueError(f"cache {name!r} has no setting {key!r}; its settings: {allowed}")
            numbers = settings[key] if isinstance(settings[key], list) else [settings[key]]
            if any(isinstance(number, int) and number > max_length for number in numbers):
                raise ValueError(
                    f"{key} of cache {name!r} must be at most {max_length} here, the positions of "
                    f"a slot, got {settings[key]}"
                )
        config = config_type(**{key: _plain(given) for key, given in settings.items()})
        hash(config)  # lanes are found by their settings
    except (ValueError, TypeError) as error:
        raise bad_request(str(error), "cache") from error
    return config


def _plain(value: Any) -> Any:
    """Lists of JSON are tuples in settings."""
    return tuple(map(_plain, value)) if isinstance(value, list) else value
