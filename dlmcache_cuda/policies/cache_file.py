"""A cache with its settings as a JSON file: what ``calibrate`` writes and ``decode`` reads."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dlmcache_cuda.policies.base import PolicyConfig

FORMAT = "dlmcache_cuda cache"
VERSION = 1


@dataclass(frozen=True, slots=True)
class CalibratedCache:
    """Settings of a policy and how they were found; pass one, or its file, as ``decode(cache=)``.

    Attributes:
        config: settings of the policy.
        decode: the arguments of ``decode`` that they were found with, without ``cache``. A call
            that leaves ``block_length`` or its commit rule open takes them from here.
        calibration: what was measured, for people: model, agreement, cost, prompts.
    """

    config: PolicyConfig
    decode: Mapping[str, Any] = field(default_factory=dict)
    calibration: Mapping[str, Any] = field(default_factory=dict)

    @property
    def policy(self) -> str:
        """Name of the policy."""
        from dlmcache_cuda.policies.registry import policy_of

        return policy_of(self.config).name

    def arguments(self) -> dict[str, Any]:
        """All of it: ``decode(model, prompts, **calibrated.arguments())`` decodes as calibrated."""
        return {"cache": self} | dict(self.decode)

    def to_dict(self) -> dict[str, Any]:
        """What the file holds."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "policy": self.policy,
            "config": dataclasses.asdict(self.config),
            "decode": dict(self.decode),
            "calibration": dict(self.calibration),
        }

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the file as a whole: another one of that name is replaced at the end only."""
        path = Path(path)
        unfinished = path.with_name(path.name + ".new")
        unfinished.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")
        unfinished.replace(path)
        return path


def load_cache(path: str | os.PathLike[str]) -> CalibratedCache:
    """Reads a file that :meth:`CalibratedCache.save` or ``dlmcache calibrate`` wrote.

    Settings that the file leaves out have the policy's defaults.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is no such file, of another version, or a setting is unknown or not allowed.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"cache: there is no file {str(path)!r}")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"cache: {path} is not a JSON file: {error}") from error
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ValueError(
            f"cache: {path} is not a file of cache settings (its format must be {FORMAT!r})"
        )
    if data.get("version") != VERSION:
        raise ValueError(
            f"cache: {path} has version {data.get('version')!r}; this dlmcache_cuda reads "
            f"version {VERSION}"
        )
    parts = {name: data.get(name, {}) for name in ("config", "decode", "calibration")}
    for name, part in parts.items():
        if not isinstance(part, dict):
            raise ValueError(f"cache: {path}: {name} must be an object, got {part!r}")
    config = _config(path, data.get("policy"), parts["config"])
    return CalibratedCache(config, parts["decode"], parts["calibration"])


def _config(path: Path, name: Any, values: dict[str, Any]) -> PolicyConfig:
    from dlmcache_cuda.policies.registry import available_policies

    policies = available_policies()
    if not isinstance(name, str) or name not in policies:
        raise ValueError(
            f"cache: {path}: policy must be one of {', '.join(policies)}, got {name!r}"
        )
    config_type = policies[name].Config
    known = [entry.name for entry in dataclasses.fields(config_type)]
    for setting in values:
        if setting not in known:
            raise ValueError(
                f"cache: {path}: {name!r} has no setting {setting!r}; it has "
                f"{', '.join(known) or 'none'}"
            )
    # JSON has no tuples.
    plain = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    try:
        return config_type(**plain)
    except (TypeError, ValueError) as error:
        raise ValueError(f"cache: {path}: {error}") from error
