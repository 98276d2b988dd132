"""How requests are decoded: from model arguments and from what a task says."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lm_eval.models.utils import normalize_gen_kwargs

from dlmcache_cuda.policies import make_policy

DEFAULT_MAX_GEN_TOKS = 256  # lm-eval's own
# Settings of decode(); the others of its parameters belong to a call.
DECODE_SETTINGS = (
    "block_length", "steps", "temperature", "cfg_scale", "remasking", "threshold", "factor", "alg",
    "alg_temp", "top_p", "top_k", "min_commit", "stop_at_eos", "cuda_graphs", "logits_eos_inf",
    "confidence_eos_eot_inf",
)  # fmt: skip
# What tasks say to any model; the rest that they say is for models of another kind.
GENERIC = {
    "until", "do_sample", "temperature", "top_p", "top_k", "max_gen_toks", "max_new_tokens",
    "max_tokens", "max_completion_tokens",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class RequestSettings:
    """How one request is decoded; requests with equal ones share a call of ``decode``."""

    gen_length: int
    max_tokens: int
    """What the text is cut to: less than ``gen_length`` where that was rounded up to blocks."""
    cache: Any
    decode: tuple[tuple[str, Any], ...]

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of ``decode``."""
        return {"gen_length": self.gen_length, "cache": self.cache, **dict(self.decode)}


@dataclass(frozen=True, slots=True)
class GenerationSettings:
    """What holds for all requests of an evaluation, where they do not say otherwise."""

    gen_length: int | None = None
    cache: Any = "none"
    decode: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_arguments(cls, arguments: Mapping[str, Any]) -> GenerationSettings:
        """From model arguments: ``gen_length``, ``cache``, settings of ``decode`` and of the cache.

        Raises:
            ValueError: a name is none of these.
        """
        cache = arguments.get("cache", "none")
        given = {name: _value(value) for name, value in arguments.items() if name != "cache"}
        gen_length = given.pop("gen_length", None)
        names = [name for name in given if name in DECODE_SETTINGS]
        decode_settings = {name: given.pop(name) for name in names}
        return cls(gen_length, _with_settings(cache, given), decode_settings)

    def of_request(self, gen_kwargs: Mapping[str, Any]) -> RequestSettings:
        """For a request: what it says in words of this package comes first, then these settings,
        then what it says to any model (``max_gen_toks``, ``do_sample``, ``temperature``, ...)."""
        own = {k: _value(v) for k, v in gen_kwargs.items() if k not in GENERIC}
        settings = {**self._generic(gen_kwargs), **self.decode}
        settings |= {name: own[name] for name in DECODE_SETTINGS if name in own}
        cache = gen_kwargs.get("cache", self.cache)
        fields = _fields(cache)
        cache = _with_settings(cache, {name: own[name] for name in fields if name in own})
        settings = {name: value for name, value in settings.items() if value is not None}
        if (length := own.get("gen_length", self.gen_length)) is not None:
            return RequestSettings(length, length, cache, tuple(sorted(settings.items())))
        length = normalize_gen_kwargs(dict(gen_kwargs), DEFAULT_MAX_GEN_TOKS)["max_gen_toks"]
        block = settings.get("block_length")
        if isinstance(block, int) and block > length:
            del settings["block_length"]  # one block
        rounded = length
        if isinstance(block, int) and 0 < block <= length:
            rounded = -(-length // block) * block
        return RequestSettings(rounded, length, cache, tuple(sorted(settings.items())))

    def ignored(self, gen_kwargs: Mapping[str, Any]) -> set[str]:
        """Names in a request that mean nothing here."""
        known = {*GENERIC, *DECODE_SETTINGS, "cache", "gen_length"}
        return set(gen_kwargs) - known - set(_fields(gen_kwargs.get("cache", self.cache)))

    @staticmethod
    def _generic(gen_kwargs: Mapping[str, Any]) -> dict[str, Any]:
        asked = normalize_gen_kwargs(dict(gen_kwargs))
        if not asked["do_sample"]:
            return {}
        return {name: asked[name] for name in ("temperature", "top_p", "top_k") if name in asked}


def check(arguments: Mapping[str, Any]) -> None:
    """That every name is one that ``of_request`` knows; for what a user writes by hand.

    Raises:
        ValueError: one is not.
    """
    unknown = GenerationSettings().ignored(arguments)
    if unknown:
        settings = ", ".join(_fields(arguments.get("cache", "none"))) or "none"
        raise ValueError(
            f"generation arguments must be {', '.join(sorted(GENERIC))}, gen_length, cache, a "
            f"setting of the cache ({settings}) or of decode() ({', '.join(DECODE_SETTINGS)}), "
            f"got {', '.join(sorted(unknown))}"
        )


def _fields(cache: Any) -> list[str]:
    return [entry.name for entry in dataclasses.fields(make_policy(cache).config)]


def _with_settings(cache: Any, values: Mapping[str, Any]) -> Any:
    if not values:
        make_policy(cache)  # refuses what is no cache
        return cache
    policy = make_policy(cache)
    fields = _fields(cache)
    for name in values:
        if name not in fields:
            raise ValueError(
                f"{name!r} is no argument of the model dlmcache: neither a setting of decode() "
                f"({', '.join(DECODE_SETTINGS)}) nor one of the cache {policy.name!r} "
                f"({', '.join(fields) or 'it has none'})"
            )
    return dataclasses.replace(policy.config, **values)


def _value(value: Any) -> Any:
    """Model arguments are texts and numbers: ``none``, and lists as ``0.1;0.2`` or YAML's."""
    if isinstance(value, str) and value.lower() == "none":
        return None
    if isinstance(value, str) and ";" in value:
        return tuple(float(part) for part in value.split(";") if part.strip())
    return tuple(value) if isinstance(value, list) else value
