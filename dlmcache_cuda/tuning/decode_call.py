"""One way to decode, for a cache and for vanilla alike."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dlmcache_cuda.decoding.arguments import DecodeSettings, check_settings
from dlmcache_cuda.decoding.defaults import decode_defaults
from dlmcache_cuda.model import Llada
from dlmcache_cuda.policies import Cache, make_policy
from dlmcache_cuda.tuning.plain import plain

# What the comparison itself decides.
_OWN = ("callback", "trace")


@dataclass(frozen=True, slots=True)
class DecodeCall:
    """Arguments of ``decode`` other than model, prompts, cache, seed and batch size.

    Attributes:
        settings: the arguments that are not ``decode``'s defaults.
    """

    settings: Mapping[str, Any]

    @classmethod
    def of(cls, model: Llada, cache: Cache, given: Mapping[str, Any], caller: str) -> DecodeCall:
        """Checks what a user gave to ``caller``.

        What the cache brings along or is defined for (its calibration, its order of commits, its
        ranking) holds for vanilla too, so that a comparison shows what reuse changes and nothing
        else.

        Raises:
            TypeError, ValueError: a setting is unknown or not as ``decode`` wants it.
        """
        defaults = decode_defaults()
        allowed = [name for name in defaults if name not in _OWN]
        for name in given:
            if name not in allowed:
                raise TypeError(
                    f"{caller} got an unknown setting {name!r}; allowed are {', '.join(allowed)}"
                )
        policy = make_policy(cache)
        checked = check_settings(model, policy, **defaults | dict(given))
        settings = {name: plain(value) for name, value in given.items()}
        if settings.get("block_length") is None and checked.num_blocks > 1:
            settings["block_length"] = checked.block_length
        threshold = policy.decoding.get("threshold")
        open_rule = all(
            settings.get(name) is None
            for name in ("threshold", "steps", "factor", "alg", "remasking")
        )
        if threshold is not None and open_rule:
            settings["threshold"] = threshold
            open_rule = False
        if policy.remasking is not None:
            settings["remasking"] = policy.remasking
        if policy.ranks and settings.get("alg") is None:
            settings["alg"] = checked.sampler.alg
        return cls({name: value for name, value in settings.items() if value != defaults[name]})

    def checked(self, model: Llada, cache: Cache, **more: Any) -> DecodeSettings:
        """The settings as a decoder takes them."""
        return check_settings(
            model, make_policy(cache), **decode_defaults() | dict(self.settings) | more
        )
