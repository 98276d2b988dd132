"""Names of policies. Every module of this package that defines one is found by itself."""

from __future__ import annotations

import difflib
import functools
import importlib
import os
import pkgutil
from collections.abc import Callable

from dlmcache_cuda.policies.base import CachePolicy, PolicyConfig
from dlmcache_cuda.policies.cache_file import CalibratedCache, load_cache

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


Cache = str | os.PathLike | PolicyConfig | CalibratedCache
"""What ``decode(cache=...)`` takes."""


def make_policy(cache: Cache) -> CachePolicy:
    """A new policy object.

    Args:
        cache: a name (the policy's default settings), a config object, the path of a file that
            ``calibrate`` wrote (a string that ends in ``.json`` or any path object), or what
            :func:`dlmcache_cuda.load_cache` read from it.

    Raises:
        ValueError: no policy has this name, or the file is not as it must be.
        FileNotFoundError: there is no such file.
        TypeError: none of these.
    """
    if isinstance(cache, os.PathLike) or is_cache_file(cache):
        cache = load_cache(cache)
    if isinstance(cache, CalibratedCache):
        policy = make_policy(cache.config)
        policy.decoding = cache.decode
        return policy
    if isinstance(cache, str):
        policy = policy_named(cache)
        return policy(policy.Config())
    return policy_of(cache)(cache)


def policy_named(name: str) -> type[CachePolicy]:
    """The policy of a name, and never a file: for names that strangers send.

    Raises:
        ValueError: no policy has this name.
    """
    policies = available_policies()
    if name not in policies:
        close = difflib.get_close_matches(name, policies, n=1)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise ValueError(f"cache must be one of {', '.join(policies)}, got {name!r}.{hint}")
    return policies[name]


def is_cache_file(cache: object) -> bool:
    """Whether a string is meant as a file and not as the name of a policy."""
    return isinstance(cache, str) and cache.endswith(".json")


def policy_of(config: PolicyConfig) -> type[CachePolicy]:
    """The policy that a config object belongs to.

    Raises:
        TypeError: it is not the config of a registered policy.
    """
    policies = available_policies()
    for policy in policies.values():
        if type(config) is policy.Config:
            return policy
    raise TypeError(
        f"cache must be a name ({', '.join(policies)}), a file that ends in .json, or the config "
        f"object of a policy, got {type(config).__name__}"
    )
