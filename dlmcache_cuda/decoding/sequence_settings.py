"""Settings given by keyword, and those of sequences that are shorter than the longest."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from dlmcache_cuda.decoding.arguments import DecodeSettings, check_integer, check_settings
from dlmcache_cuda.decoding.defaults import decode_defaults
from dlmcache_cuda.decoding.regions import Region
from dlmcache_cuda.model import Llada
from dlmcache_cuda.policies import PolicyConfig, make_policy


class SequenceSettings:
    """The settings of ``decode`` that a user gave by keyword, checked.

    Args:
        model: from :func:`dlmcache_cuda.load`.
        given: settings by name.
        caller: what the user called, for messages.
        regions: the generation regions where canvases were given in place of prompts.

    Attributes:
        cache: the cache method.
        longest: the settings with ``gen_length`` as given.

    Raises:
        TypeError, ValueError: a setting is unknown or not as ``decode`` wants it.
    """

    def __init__(
        self,
        model: Llada,
        given: dict[str, Any],
        caller: str,
        regions: Sequence[Region] | None = None,
    ) -> None:
        defaults = decode_defaults()
        allowed = [name for name in (*defaults, "cache") if name != "callback"]
        for name in given:
            if name not in allowed:
                raise TypeError(
                    f"{caller} got an unknown setting {name!r}; allowed are {', '.join(allowed)}"
                )
        self._model = model
        self._taken = defaults | given
        self.cache: str | PolicyConfig = self._taken.pop("cache", "none")
        self._one_block = self._taken["block_length"] is None
        self.longest = self._check(regions=regions)
        # A few lengths come again and again.
        self._shorter = lru_cache(maxsize=256)(self._of_length)

    def of_length(self, gen_length: int | None) -> DecodeSettings:
        """The settings of a sequence with ``gen_length`` positions; None: the longest."""
        longest = self.longest.gen_length
        if gen_length is None:
            return self.longest
        gen_length = check_integer("gen_length", gen_length, 1, longest)
        block_length = self.longest.block_length
        if not self._one_block and gen_length % block_length:
            raise ValueError(
                f"gen_length must be a multiple of block_length ({block_length}), got {gen_length}"
            )
        return self.longest if gen_length == longest else self._shorter(gen_length)

    def of_region(self, region: Region) -> DecodeSettings:
        """The settings of a sequence that came as a canvas."""
        length, longest = len(region.ids), self.longest.gen_length
        if length > longest:
            raise ValueError(
                f"canvas has {length} positions from its first mask on; gen_length of this decoder "
                f"is {longest}"
            )
        return self._check(regions=[region])

    def _of_length(self, gen_length: int) -> DecodeSettings:
        steps = self._taken["steps"]
        if steps is not None:
            # Exact with blocks of one length; one block of another length takes a part, rounded up.
            steps = -(-steps * gen_length // self.longest.gen_length)
        return self._check(gen_length=gen_length, steps=steps)

    def _check(self, **changed: Any) -> DecodeSettings:
        return check_settings(self._model, make_policy(self.cache), **self._taken | changed)


def check_drafts(drafts: Any) -> bool:
    """Refuses what is not a bool."""
    if not isinstance(drafts, bool):
        raise TypeError(f"drafts must be True or False, got {drafts!r}")
    return drafts
