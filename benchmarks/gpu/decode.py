"""Whole decodings with every policy, captured and eager, vanilla beside each of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from unittest import mock

import torch

import dlmcache_cuda
from benchmarks.gpu.context import Context
from benchmarks.gpu.graphs import modes
from benchmarks.gpu.model import block_bytes, cached_bytes, head_bytes
from benchmarks.gpu.options import Options
from benchmarks.gpu.settings import BLOCK_LENGTH, STATED, Setting, config, settings
from benchmarks.gpu.steps import timed_steps
from dlmcache_cuda.benchmark.timing import summarize
from dlmcache_cuda.model import Llada

# All steps of vanilla decoding are alike: so many are made, the others are counted.
VANILLA_STEPS = 4


def cases(options: Options) -> dict[str, Setting]:
    return {str(setting): setting for setting in settings(options)}


def predicted_bytes(model: Llada, setting: Setting) -> int:
    """With the proxies that the setting's cache asks for."""
    return dlmcache_cuda.predict_memory(
        model,
        [setting.prompt] * setting.batch,
        gen_length=setting.gen_length,
        block_length=BLOCK_LENGTH,
        batch_size=setting.batch,
        cache=config(setting.cache),
    ).total


def measure(context: Context, case: Setting) -> dict[str, Any]:
    model, options, on_gpu = context.model, context.options, context.options.device == "cuda"
    predicted = predicted_bytes(model, case)
    if on_gpu and predicted > 0.95 * torch.cuda.get_device_properties(0).total_memory:
        return {"skipped": f"needs {predicted / 1e9:.1f} GB by prediction"}
    available = modes(options.device)
    seconds: dict[str, list[float]] = {mode: [] for mode in available}
    steps: dict[str, list[float]] = {mode: [] for mode in available}
    peak, vanilla, limit = None, [], VANILLA_STEPS if case.cache == "none" else None
    for number in range(1 if options.quick else 2):
        for mode, arguments in available.items():
            if on_gpu:
                torch.cuda.reset_peak_memory_stats()
            taken = _decode(model, case, config(case.cache), limit, arguments)
            seconds[mode].append(sum(taken))
            steps[mode] += taken
            if on_gpu and number == 0 and peak is None:
                peak = torch.cuda.max_memory_allocated()
        vanilla += _decode(model, case, "none", VANILLA_STEPS, next(iter(available.values())))
    forwards = case.gen_length // case.commits
    moved = block_bytes(model) + head_bytes(model)
    moved += cached_bytes(model, case.batch * (case.prompt + case.gen_length))
    floor = forwards * context.roofline.floor(moved)
    vanilla_total = forwards * summarize(vanilla).median
    found = {"stated": STATED, "forwards": forwards, "floor_s": floor, "modes": {}}
    found |= {"vanilla_s": vanilla_total, "predicted_gb": predicted / 1e9}
    found["peak_gb"] = None if peak is None else peak / 1e9
    for mode in available:
        step = summarize(steps[mode])
        total = forwards * step.median if limit else summarize(seconds[mode]).median
        found["modes"][mode] = {
            "seconds": total,
            "step_ms": step.median * 1e3,
            "step_ms_p10": step.p10 * 1e3,
            "step_ms_p90": step.p90 * 1e3,
            "tokens_per_s": case.batch * case.gen_length / total,
            "ratio": total / floor,
            "speed_up": vanilla_total / total,
        }
    return found


def _decode(model: Llada, case: Setting, cache, limit: int | None, arguments) -> list[float]:
    """Seconds of every step."""
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(0, 60, (case.batch, case.prompt), generator=generator)
    # Real directions take a decomposition per layer, and are no cheaper to project on.
    random = mock.patch("dlmcache_cuda.stack.selection.stack_proxies", _stack_random_proxies)
    with random, timed_steps(limit) as seconds:
        dlmcache_cuda.decode(
            model,
            prompts,
            gen_length=case.gen_length,
            block_length=BLOCK_LENGTH,
            steps=case.gen_length // case.commits,
            cache=cache,
            stop_at_eos=False,
            seed=0,
            batch_size=case.batch,
            **arguments,
        )
    return seconds


def _stack_random_proxies(model: Llada, rank: float) -> int:
    rows = min(model.config.d_model, int(rank))
    shape = (rows, model.config.d_model)
    for layer in model.layers:
        if layer.weights.proxy_rank < rows:
            proxy = torch.randn(shape, device=model.device, dtype=model.dtype)
            layer.weights = layer.weights.with_proxy(proxy)
    return rows


def table(cases: Mapping[str, dict[str, Any]]) -> str:
    lines = [
        STATED + ".",
        "",
        "| setting | mode | tokens/s | s | floor s | ratio | vanilla s | speed-up "
        "| step ms (p10-p90) | peak GB | predicted GB |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, case in cases.items():
        peak = "" if case["peak_gb"] is None else f"{case['peak_gb']:.1f}"
        for mode, found in case["modes"].items():
            lines.append(
                f"| {name} | {mode} | {found['tokens_per_s']:.1f} | {found['seconds']:.2f} "
                f"| {case['floor_s']:.2f} | {found['ratio']:.2f} | {case['vanilla_s']:.2f} "
                f"| {found['speed_up']:.2f} | {found['step_ms']:.2f} "
                f"({found['step_ms_p10']:.2f}-{found['step_ms_p90']:.2f}) "
                f"| {peak} | {case['predicted_gb']:.1f} |"
            )
    return "\n".join(lines)


def headline(cases: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """The decoding that gains most over vanilla."""
    name, case = max(
        cases.items(), key=lambda item: max(m["speed_up"] for m in item[1]["modes"].values())
    )
    mode, found = min(case["modes"].items(), key=lambda item: item[1]["seconds"])
    return [
        {
            "what": f"{name}, {mode} ({found['speed_up']:.2f}x vanilla)",
            "value": found["seconds"],
            "unit": "s",
            "floor": case["floor_s"],
            "ratio": found["ratio"],
        }
    ]
