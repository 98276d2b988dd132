"""From what users write to policies with settings."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dlmcache_cuda.benchmark.fixed_rate import fixed_rate
from dlmcache_cuda.benchmark.models import ModelSpec
from dlmcache_cuda.policies import PolicyConfig, available_policies, make_policy
from dlmcache_cuda.policies.presets import Preset, presets

BLOCK_LENGTH = 32
BUNDLED_MODEL = "tiny_llada"
FORMS = (
    "a name, POLICY@MODEL or POLICY@MODEL/TASK (published settings), a JSON object with 'cache' "
    "and its settings, or a .json file with a list of such objects"
)


@dataclass(frozen=True, slots=True)
class PolicySetting:
    """A policy, its settings where they are not the defaults, and the block that goes with it."""

    cache: str
    settings: dict[str, Any] = field(default_factory=dict)
    block_length: int | None = None

    @property
    def config(self) -> PolicyConfig:
        return make_config(self.cache, self.settings)


def make_config(cache: str, settings: dict[str, Any]) -> PolicyConfig:
    """The config object of a policy; lists of JSON become tuples.

    Raises:
        ValueError: no such policy or setting.
    """
    config_type = make_policy(cache).Config
    allowed = [f.name for f in dataclasses.fields(config_type)]
    for name in settings:
        if name not in allowed:
            known = ", ".join(allowed) or "it has none"
            raise ValueError(
                f"policies: a setting of {cache!r} must be one of {known}; got {name!r}"
            )
    plain = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
    return config_type(**plain)


def differing(config: PolicyConfig) -> dict[str, Any]:
    """The settings that are not the defaults."""
    default = type(config)()
    values = {f.name: getattr(config, f.name) for f in dataclasses.fields(config)}
    return {name: value for name, value in values.items() if value != getattr(default, name)}


def parse_policies(
    texts: Sequence[str], model: ModelSpec, gen_length: int, commits: int | None = 1
) -> list[PolicySetting]:
    """What a user asked for, without vanilla, in the given order and each once.

    Args:
        texts: ``all``, or see :data:`FORMS`.
        model: names alone mean the bundled model's presets on the bundled model, a fixed rate of
            refreshes on random weights, and what was published for a checkpoint of that name.
        gen_length: a block that does not divide it becomes the whole of it, unless asked for.
        commits: tokens per step, on which the fixed rate depends; None: a threshold.

    Raises:
        ValueError: something is none of the forms, or no policy or preset.
    """
    found: list[PolicySetting] = []
    for text in texts:
        if text == "all":
            names = [name for name in available_policies() if name != "none"]
            parsed = [_named(name, model, commits) for name in names]
        elif text.startswith("{"):
            parsed = [_from_object(_json(text, text), text, gen_length)]
        elif text.endswith(".json"):
            listed = _json(Path(text).read_text("utf-8"), text)
            listed = listed if isinstance(listed, list) else [listed]
            parsed = [_from_object(entry, text, gen_length) for entry in listed]
        elif "@" in text:
            parsed = [_published(text)]
        else:
            make_policy(text)
            parsed = [_named(text, model, commits)]
        for setting in parsed:
            block = setting.block_length
            if block is not None and gen_length % block:
                setting = dataclasses.replace(setting, block_length=None)
            if setting.cache != "none" and setting not in found:
                found.append(setting)
    return found


def _named(cache: str, model: ModelSpec, commits: int | None) -> PolicySetting:
    fitted = presets(BUNDLED_MODEL)[cache]
    block_length = None if fitted.block_length == fitted.gen_length else BLOCK_LENGTH
    if model.is_bundled:
        return PolicySetting(cache, differing(fitted.config), block_length)
    if model.is_random:
        return PolicySetting(cache, fixed_rate(cache, commits or 2), block_length)
    try:
        preset = presets(model.text).get(cache)
    except ValueError:
        preset = None
    return PolicySetting(cache, {}, block_length) if preset is None else _of_preset(cache, preset)


def _of_preset(cache: str, preset: Preset) -> PolicySetting:
    return PolicySetting(cache, differing(preset.config), preset.block_length)


def _published(text: str) -> PolicySetting:
    cache, _, name = text.partition("@")
    make_policy(cache)
    model, _, task = name.rpartition("/")
    try:
        found = presets(model, task) if model else presets(name)
    except ValueError:
        found = presets(name)  # organisation/model, without a task
    if cache not in found:
        raise ValueError(f"policies: nothing was published for {cache!r} on {name!r}")
    return _of_preset(cache, found[cache])


def _json(text: str, source: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise ValueError(f"policies: {source}: not JSON ({error})") from error


def _from_object(content: Any, source: str, gen_length: int) -> PolicySetting:
    if not isinstance(content, dict) or not isinstance(content.get("cache"), str):
        raise ValueError(f"policies must be {FORMS}; got {source!r}")
    settings = dict(content)
    cache = settings.pop("cache")
    block_length = settings.pop("block_length", None)
    if block_length is not None and (not isinstance(block_length, int) or block_length < 1):
        raise ValueError(f"policies: block_length must be an integer >= 1, got {block_length!r}")
    if block_length is not None and gen_length % block_length:
        raise ValueError(
            f"policies: block_length must divide gen_length ({gen_length}), got {block_length} in "
            f"{source!r}"
        )
    return PolicySetting(cache, differing(make_config(cache, settings)), block_length)
