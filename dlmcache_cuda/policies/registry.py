"""Names of policies. Every module of this package that defines one is found by itself."""

from __future__ import annotations

import difflib
import functools
import importlib
import pkgutil
from collections.abc import Callable

from dlmcache_cuda.policies.base import CachePolicy, PolicyConfig

_POLICIES: dict[str, type[CachePolicy]] = {}


def register_policy(name: str) -> Callable[[type[CachePolicy]], type[CachePolicy]]:
    """Class decorator: makes a policy available as ``decode(cache=name)``."""

    def register(policy: type[CachePolicy]) -> type[CachePolicy]:
        if name in _POLICIES:
            raise ValueError(f"a policy named {name!r} is already registered: {_POLICIES[name]}")
        policy.name = name
        _POLICIES[name] = policy
        return policy

    return register


@functools.cache
def _import_policies() -> None:
    package = importlib.import_module("dlmcache_cuda.policies")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")


def available_policies() -> dict[str, type[CachePolicy]]:
    """All registered policies by name, vanilla (``none``) first."""
    _import_policies()
    return dict(sorted(_POLICIES.items(), key=lambda item: (item[0] != "none", item[0])))


def make_policy(cache: str | PolicyConfig) -> CachePolicy:
    """A new policy object from a name (its default settings) or a config object.

    Raises:
        ValueError: no policy has this name.
        TypeError: neither a name nor the config of a registered policy.
    """
    policies = available_policies()
    if isinstance(cache, str):
        if cache not in policies:
            close = difflib.get_close_matches(cache, policies, n=1)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"cache must be one of {', '.join(policies)}, got {cache!r}.{hint}")
        policy = policies[cache]
        return policy(policy.Config())
    for policy in policies.values():
        if type(cache) is policy.Config:
            return policy(cache)
    raise TypeError(
        f"cache must be a name ({', '.join(policies)}) or the config object of a policy, "
        f"got {type(cache).__name__}"
    )
