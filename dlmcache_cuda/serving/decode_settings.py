"""How a sequence is decoded: the server's settings, and what a request changes of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dlmcache_cuda.decoding.arguments import check_settings
from dlmcache_cuda.decoding.defaults import decode_defaults
from dlmcache_cuda.model import Llada
from dlmcache_cuda.policies import PolicyConfig, make_policy
from dlmcache_cuda.serving.errors import bad_request


@dataclass(frozen=True, slots=True)
class LaneSettings:
    """What sequences of one lane have in common: arguments of :func:`dlmcache_cuda.decode`."""

    cache: PolicyConfig
    block_length: int | None = 32
    steps: int | None = None
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

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of ``decode``."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def whole_blocks(self, max_tokens: int) -> int:
        """The ``gen_length`` for so many tokens."""
        if self.block_length is None:
            return max_tokens
        return -(-max_tokens // self.block_length) * self.block_length

    def changed(self, given: Mapping[str, Any]) -> LaneSettings:
        """The same with what a request gives; None leaves a setting as it is.

        A request that names one of two settings that exclude each other drops the other one.

        Raises:
            ApiError: 400.
        """
        values = {name: value for name, value in given.items() if value is not None}
        if values.get("top_p") == 1:
            del values["top_p"]  # OpenAI's clients say so where they mean nothing
        for name, others in _EXCLUDE.items():
            if name in values:
                values = dict.fromkeys(others) | values
        if "cache" in values:
            values["cache"] = cache_from_json(values["cache"])
        return dataclasses.replace(self, **values)

    def check(self, model: Llada, gen_length: int) -> None:
        """Refuses what ``decode`` would refuse.

        Raises:
            ApiError: 400.
        """
        arguments = decode_defaults() | self.arguments() | {"gen_length": gen_length}
        try:
            policy = make_policy(arguments.pop("cache"))
            check_settings(model, policy, **arguments)
        except (ValueError, TypeError) as error:
            raise bad_request(str(error), _named_first(str(error))) from error
        if self.steps is not None and self.steps > gen_length:
            raise bad_request(
                f"steps must be at most the positions to decode ({gen_length}), got {self.steps}",
                "steps",
            )


_EXCLUDE = {
    "steps": ("threshold", "factor"),
    "threshold": ("steps", "factor", "alg", "alg_temp", "top_p", "top_k", "min_commit"),
    "factor": ("steps", "threshold", "alg", "alg_temp", "top_p", "top_k", "min_commit"),
    "alg": ("threshold", "factor", "remasking"),
}


def cache_from_json(value: Any) -> PolicyConfig:
    """The config that ``"dual"`` or ``{"name": "elastic", "gamma": 0.9}`` stands for.

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
        config_type = make_policy(name).Config
        known = [field.name for field in dataclasses.fields(config_type)]
        for key in settings:
            if key not in known:
                allowed = ", ".join(known) or "it has none"
                raise ValueError(f"cache {name!r} has no setting {key!r}; its settings: {allowed}")
        return config_type(
            **{
                key: tuple(given) if isinstance(given, list) else given
                for key, given in settings.items()
            }
        )
    except (ValueError, TypeError) as error:
        raise bad_request(str(error), "cache") from error


def _named_first(message: str) -> str | None:
    """The setting that an error of ``decode`` is about: by custom its first word."""
    word = message.partition(" ")[0]
    names = {field.name for field in dataclasses.fields(LaneSettings)}
    return word if word in names else None
