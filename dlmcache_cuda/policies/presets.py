"""Published settings: what the authors of each method ran, by model and task.

Only what was published stands here. A field that a source leaves open is None and is not passed on.
"""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

from dlmcache_cuda.policies.base import PolicyConfig
from dlmcache_cuda.policies.composed import ComposedConfig
from dlmcache_cuda.policies.d2 import D2Config
from dlmcache_cuda.policies.dkv_decode import DkvDecodeConfig
from dlmcache_cuda.policies.dkv_greedy import DkvGreedyConfig
from dlmcache_cuda.policies.dkv_pd import DkvPdConfig
from dlmcache_cuda.policies.dkv_prefill import DkvPrefillConfig
from dlmcache_cuda.policies.dllm import DllmConfig
from dlmcache_cuda.policies.elastic import ElasticConfig
from dlmcache_cuda.policies.fast_dllm import DualConfig, PrefixConfig
from dlmcache_cuda.policies.registry import available_policies, make_policy
from dlmcache_cuda.policies.spa import SpaConfig
from dlmcache_cuda.policies.vanilla import VanillaConfig


@dataclass(frozen=True, slots=True)
class Preset:
    """A method's settings, and how its authors decoded with them.

    Attributes:
        config: settings of the policy.
        source: who published them, and what was left open.
        shots: examples in front of the question; nothing that ``decode`` does.
        All others are arguments of ``decode``; None: not set by the source.
    """

    config: PolicyConfig
    source: str
    shots: int | None = None
    gen_length: int | None = None
    block_length: int | None = None
    steps: int | None = None
    threshold: float | None = None
    logits_eos_inf: bool | None = None
    confidence_eos_eot_inf: bool | None = None
    alg: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    min_commit: int | None = None

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments: ``decode(model, prompts, **preset.arguments())``."""
        return {"cache": self.config} | self.decode_arguments()

    def decode_arguments(self) -> dict[str, Any]:
        """The same without ``cache``: for another cache on the same task."""
        set_fields = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in ("config", "source", "shots"):
            del set_fields[name]
        return {name: value for name, value in set_fields.items() if value is not None}


_BUNDLED = "tiny_llada"
_BASE, _INSTRUCT, _LLADA_15 = "LLaDA-8B-Base", "LLaDA-8B-Instruct", "LLaDA-1.5"
_DREAM_BASE, _DREAM_INSTRUCT = "Dream-v0-Base-7B", "Dream-v0-Instruct-7B"
MODELS = (_BASE, _INSTRUCT, _LLADA_15, _DREAM_BASE, _DREAM_INSTRUCT, _BUNDLED)
TASKS = ("gsm8k", "math", "humaneval", "mbpp", "gpqa", "bbh", "mmlu", "mmlu_pro")
_OTHER_NAMES = {
    "gsm8k_cot": "gsm8k",
    "minerva_math": "math",
    "math500": "math",
    "math_500": "math",
    "gpqa_main": "gpqa",
    "mmlupro": "mmlu_pro",
}

_DREAM_SAMPLING = {"alg": "entropy", "temperature": 0.2, "top_p": 0.95}

# LLaDA's authors: gen_length, block_length, logits_eos_inf, confidence_eos_eot_inf. One token per
# step. Of two published ways the one with the better score.
_LLADA = {
    _INSTRUCT: {
        "gsm8k": (256, 8, False, False),
        "math": (512, 64, False, False),
        "humaneval": (512, 512, True, False),
        "mbpp": (256, 256, False, True),
        "mmlu_pro": (256, 256, False, False),
        "gpqa": (64, 64, False, True),
    },
    _LLADA_15: {
        "gsm8k": (256, 16, False, True),
        "math": (1024, 128, False, True),
        "humaneval": (512, 32, False, True),
        "mbpp": (512, 32, False, True),
    },
    _BASE: {"gsm8k": (512, 512, None, None)},
}

# Examples before the question in the scripts of Fast-dLLM and Elastic-Cache.
_SHOTS = {"gsm8k": 5, "math": 4, "humaneval": 0, "mbpp": 3}

# dKV-Cache on LLaDA: length and number of steps, block_length.
_DKV_LLADA = {
    "mmlu": (32, 16),
    "gsm8k": (256, 32),
    "math": (256, 64),
    "gpqa": (128, 64),
    "humaneval": (512, 32),
    "mbpp": (512, 32),
}
# dKV-Cache on Dream: examples, length and number of steps, whether PD was run.
_DKV_DREAM = {
    "gsm8k": (8, 256, True),
    "mbpp": (3, 512, True),
    "humaneval": (0, 512, True),
    "mmlu": (5, 8, False),
    "gpqa": (5, 128, False),
}

# SPA-Cache on LLaDA-8B-Instruct: examples, length and number of steps, block_length, refresh_steps,
# refresh_gen_steps, min_update_ratio.
_SPA_LLADA = {
    "gsm8k": (4, 256, 8, 50, 7, 1 / 16),
    "math": (4, 256, 32, 50, 2, 1 / 16),
    "gpqa": (5, 128, 64, 50, 6, 1 / 16),
    "bbh": (3, 256, 256, 50, 6, 1 / 16),
    "mmlu_pro": (5, 256, 256, 50, 3, 0.125),
    "mbpp": (3, 512, 32, 25, 4, 1 / 16),
    "humaneval": (0, 512, 32, 50, 8, 0.2),
}
# SPA-Cache on Dream-v0-Instruct-7B: examples, refresh_steps, refresh_gen_steps, min_update_ratio.
_SPA_DREAM = {
    "gsm8k": (8, 25, 2, 0.125),
    "math": (4, 50, 1, 1 / 16),
    "gpqa": (5, 16, 1, 0.2),
    "bbh": (3, 32, 2, 1 / 16),
    "mmlu_pro": (5, 16, 4, 1 / 16),
    "mbpp": (3, 8, 3, 0.125),
    "humaneval": (0, 50, 3, 1 / 16),
}
_SPA_DREAM_CURVE = {
    "peak": 0.5,
    "first_ratio": 0.05,
    "peak_ratio": 0.3,
    "last_ratio": 0.25,
    "proxy_rank": 32,
    "warmup_steps": 1,
    "early_stop_steps": 1,
}

# dLLM-Cache in d2Cache's library: prompt_interval_steps, gen_interval_steps.
_DLLM_MODELS = (_BASE, _INSTRUCT, _DREAM_BASE, _DREAM_INSTRUCT)
_DLLM = {
    "gsm8k": ((25, 5), (50, 7), (100, 8), (25, 2)),
    "humaneval": ((50, 5), (25, 5), (5, 1), (50, 1)),
    "math": ((50, 8), (50, 1), (100, 4), (50, 1)),
    "mbpp": ((25, 4), (100, 5), (25, 8), (10, 8)),
    "gpqa": ((100, 8), (50, 6), (100, 8), (10, 8)),
    "mmlu_pro": ((100, 6), (50, 3), (25, 2), (5, 1)),
    None: ((50, 4), (50, 4), (50, 4), (50, 4)),
}

# Elastic-Cache on Dream: window_length, gamma.
_ELASTIC_DREAM = {"gsm8k": (32, 0.9), "humaneval": (16, 0.98)}

_Row = tuple[str, str, str | None, Preset]  # model, policy, task (None: any), preset


def _vanilla() -> Iterator[_Row]:
    source = "LLaDA (arXiv 2502.09992), evaluation settings of the authors"
    for model, tasks in _LLADA.items():
        for task, (length, block, suppressed, last) in tasks.items():
            preset = Preset(
                VanillaConfig(), source, gen_length=length, block_length=block, steps=length,
                logits_eos_inf=suppressed, confidence_eos_eot_inf=last,
            )  # fmt: skip
            yield model, "none", task, preset
    source = "Dream (arXiv 2508.15487), defaults of the Instruct model; any task, lengths left open"
    yield _DREAM_INSTRUCT, "none", None, Preset(VanillaConfig(), source, **_DREAM_SAMPLING)


def _fast_dllm() -> Iterator[_Row]:
    source = "Fast-dLLM (arXiv 2505.22618), authors' scripts (gen_length also 512)"
    decoding = {"gen_length": 256, "block_length": 32, "threshold": 0.9}
    for model in (_INSTRUCT, _DREAM_BASE):
        for policy, config in (("prefix", PrefixConfig()), ("dual", DualConfig())):
            for task in (*_SHOTS, None):
                preset = Preset(config, source, shots=_SHOTS.get(task), **decoding)
                yield model, policy, task, preset


def _dkv() -> Iterator[_Row]:
    paper = "dKV-Cache (arXiv 2505.15781)"
    source, general = f"{paper}, authors' scripts", f"{paper}, any task, lengths left open"
    for task, (length, block) in _DKV_LLADA.items():
        decoding = {"gen_length": length, "block_length": block, "steps": length}
        greedy = DkvGreedyConfig(window_length=2 if task == "mbpp" else 4)
        yield _INSTRUCT, "dkv-decode", task, Preset(DkvDecodeConfig(), source, 0, **decoding)
        yield _INSTRUCT, "dkv-greedy", task, Preset(greedy, source, 0, **decoding)
    yield _INSTRUCT, "dkv-decode", None, Preset(DkvDecodeConfig(), general)
    yield _INSTRUCT, "dkv-greedy", None, Preset(DkvGreedyConfig(), general)
    configs = {
        "dkv-decode": DkvDecodeConfig(cache_reloading_step=4),
        "dkv-prefill": DkvPrefillConfig(),
        "dkv-pd": DkvPdConfig(),
    }
    for policy, config in configs.items():
        for task, (shots, length, pd) in _DKV_DREAM.items():
            decoding = {"gen_length": length, "steps": length, "alg": "entropy", "temperature": 0.2}
            if policy != "dkv-pd" or pd:
                yield _DREAM_BASE, policy, task, Preset(config, source, shots, **decoding)
        yield _DREAM_BASE, policy, None, Preset(config, general)


def _elastic() -> Iterator[_Row]:
    source = "Elastic-Cache (arXiv 2510.14973), authors' scripts"
    decoding = {"gen_length": 512, "threshold": 0.9}
    for model in (_INSTRUCT, _LLADA_15):
        for task in (*_SHOTS, None):
            preset = Preset(ElasticConfig(), source, _SHOTS.get(task), **decoding)
            yield model, "elastic", task, preset
    for task, (window, gamma) in _ELASTIC_DREAM.items():
        config = ElasticConfig(gamma=gamma, window_length=window)
        yield _DREAM_BASE, "elastic", task, Preset(config, source, _SHOTS[task], **decoding)


def _spa() -> Iterator[_Row]:
    paper = "SPA-Cache (arXiv 2602.02544)"
    source = f"{paper}, authors' scripts"
    open_ = "lengths left open, refresh intervals of GSM8K"
    for task, (shots, length, block, whole, generated, floor) in _SPA_LLADA.items():
        config = SpaConfig(
            refresh_steps=whole, refresh_gen_steps=generated, min_update_ratio=floor,
            early_stop_steps=block,
        )  # fmt: skip
        yield _INSTRUCT, "spa", task, Preset(config, source, shots, length, block, length)
    general = f"{paper}, budget of this model for any task; {open_}"
    yield _INSTRUCT, "spa", None, Preset(SpaConfig(), general)
    general = f"{paper}, budget of this model; {open_} on LLaDA-8B-Instruct"
    yield _LLADA_15, "spa", None, Preset(SpaConfig(peak=0.8), general)
    sampling = _DREAM_SAMPLING | {"min_commit": 1}
    general = f"{paper}, budget of this model for any task; {open_}"
    for task, (shots, whole, generated, floor) in _SPA_DREAM.items():
        config = SpaConfig(
            refresh_steps=whole, refresh_gen_steps=generated, min_update_ratio=floor,
            **_SPA_DREAM_CURVE,
        )  # fmt: skip
        preset = Preset(config, source, shots, gen_length=256, steps=256, **sampling)
        yield _DREAM_INSTRUCT, "spa", task, preset
        if task == "gsm8k":
            yield _DREAM_INSTRUCT, "spa", None, Preset(config, general, **sampling)


def _dllm() -> Iterator[_Row]:
    source = "dLLM-Cache (arXiv 2506.06295) in d2Cache's library; lengths left open"
    for task, pairs in _DLLM.items():
        for model, (prompt, generated) in zip(_DLLM_MODELS, pairs, strict=True):
            config = DllmConfig(prompt_interval_steps=prompt, gen_interval_steps=generated)
            yield model, "dllm", task, Preset(config, source)


def _d2() -> Iterator[_Row]:
    source = "d2Cache (arXiv 2509.23094), defaults of its library; any task, lengths left open"
    for model in _DLLM_MODELS:
        yield model, "d2", None, Preset(D2Config(), source)


def _bundled() -> Iterator[_Row]:
    """The published settings, shrunk to the bundled model.

    They count on 256 tokens (dKV-Cache's blocks: on 32); this model decodes 96 in blocks of 32, so
    that intervals, windows and row counts shrink to 3/8.
    """
    source = "published settings, lengths and intervals shrunk to the bundled model's 96 tokens"
    blocks: list[PolicyConfig] = [
        VanillaConfig(),
        PrefixConfig(),
        DualConfig(),
        DkvDecodeConfig(),
        DkvGreedyConfig(),
        SpaConfig(refresh_steps=19, refresh_gen_steps=3),
        DllmConfig(prompt_interval_steps=19, gen_interval_steps=2),
    ]
    whole: list[PolicyConfig] = [
        DkvPrefillConfig(),
        DkvPdConfig(),
        ElasticConfig(window_length=6),
        D2Config(current_k=12),
        ComposedConfig(window_length=6),
    ]
    for configs, block_length in ((blocks, 32), (whole, 96)):
        for config in configs:
            preset = Preset(config, source, gen_length=96, block_length=block_length)
            yield _BUNDLED, make_policy(config).name, None, preset


@functools.cache
def _by_model() -> dict[str, dict[str, dict[str | None, Preset]]]:
    tables: dict[str, dict[str, dict[str | None, Preset]]] = {model: {} for model in MODELS}
    for rows in (_bundled, _vanilla, _fast_dllm, _dkv, _elastic, _spa, _dllm, _d2):
        for model, policy, task, preset in rows():
            tables[model].setdefault(policy, {})[task] = preset
    return tables


def presets(model_name: str, task: str | None = None) -> dict[str, Preset]:
    """Published settings for a model, by name of the policy.

    >>> preset = presets("LLaDA-8B-Instruct", task="gsm8k")["spa"]
    >>> out = decode(model, prompts, **preset.arguments())

    Args:
        model_name: a published checkpoint, with or without its organisation, in any case; what
            stands before the last ``/`` is ignored.
        task: a benchmark. None: what was published for any task. With a task, a policy that has
            nothing for it but something for any task gives that; ``source`` tells.

    Returns:
        One preset per policy; policies without published settings for the model are absent.

    Raises:
        ValueError: nothing was published for a model or task of this name; the message lists them.
    """
    tables = _by_model()[_find("model_name", model_name, MODELS)]
    if task is not None:
        task = _find("task", task, TASKS)
    found = {}
    for policy in available_policies():
        table = tables.get(policy, {})
        preset = table.get(task, table.get(None))
        if preset is not None:
            found[policy] = preset
    return found


def preset_tasks(model_name: str) -> tuple[str, ...]:
    """Tasks that something was published for, on a model."""
    tables = _by_model()[_find("model_name", model_name, MODELS)].values()
    return tuple(task for task in TASKS if any(task in table for table in tables))


def preset_caches(model_name: str) -> tuple[str, ...]:
    """Policies that something was published for, on a model."""
    tables = _by_model()[_find("model_name", model_name, MODELS)]
    return tuple(policy for policy in available_policies() if policy in tables)


def _find(what: str, name: str, known: Sequence[str]) -> str:
    if not isinstance(name, str):
        raise TypeError(f"{what} must be a string, got {type(name).__name__}")
    plain = name.rstrip("/").rpartition("/")[2].lower()
    by_plain = {entry.lower(): entry for entry in known}
    if what == "task":
        plain = plain.replace("-", "_")
        plain = _OTHER_NAMES.get(plain, plain)
    if plain in by_plain:
        return by_plain[plain]
    close = difflib.get_close_matches(plain, by_plain, n=1)
    hint = f" Did you mean {by_plain[close[0]]!r}?" if close else ""
    raise ValueError(f"{what} must be one of {', '.join(known)}, got {name!r}.{hint}")
