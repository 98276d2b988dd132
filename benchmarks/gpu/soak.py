"""Decodes changing batches with the bundled model: captured steps and eager ones, batches and
single sequences have to give the same tokens."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

import dlmcache_cuda
from benchmarks.gpu.context import Context
from benchmarks.gpu.graphs import modes
from benchmarks.gpu.options import Options
from dlmcache_cuda.model import Llada


@dataclass(frozen=True, slots=True)
class Round:
    cache: str
    threshold: float | None
    seed: int


def cases(options: Options) -> dict[str, Round]:
    rounds = {}
    for seed in range(1 if options.quick else 3):
        for name, policy in dlmcache_cuda.available_policies().items():
            threshold = 0.9 if seed % 2 and policy.remasking is None else None
            rounds[f"{name} {seed}"] = Round(name, threshold, seed)
    return rounds


@cache
def _bundled(device: str) -> Llada:
    return dlmcache_cuda.load(device=device, dtype="float32")


def measure(context: Context, case: Round) -> dict[str, Any]:
    options, draw = context.options, random.Random(f"{case.cache} {case.seed}")
    model = _bundled(options.device)
    prompts = [
        torch.tensor([draw.randrange(2, model.config.vocab_size) for _ in range(length)])
        for length in draw.choices(range(5, 100), k=3 if options.quick else 6)
    ]
    settings = {
        "gen_length": 16 if options.quick else draw.choice((32, 48, 64)),
        "block_length": 16,
        "cache": case.cache,
        "threshold": case.threshold,
    }
    # Fewer places than sequences: the batch changes while it runs.
    batch = {"seed": list(range(len(prompts))), "batch_size": len(prompts) // 2 + 1}
    outputs = {
        mode: dlmcache_cuda.decode(model, prompts, **settings, **batch, **arguments)
        for mode, arguments in modes(options.device).items()
    }
    first = next(iter(outputs.values()))
    chosen = draw.randrange(len(prompts))
    alone = dlmcache_cuda.decode(model, [prompts[chosen]], **settings, seed=chosen)
    pairs = [(mode, n, out.ids[n], first.ids[n]) for mode, out in outputs.items()
             for n in range(len(prompts))]  # fmt: skip
    pairs.append(("alone", chosen, alone.ids[0], first.ids[chosen]))
    different = [
        f"{mode}, sequence {n}: positions {(a != b).nonzero().flatten().tolist()[:8]}"
        for mode, n, a, b in pairs
        if not torch.equal(a, b)
    ]
    steps = sum(out.stats.forwards for out in (*outputs.values(), alone))
    found = {"modes": list(outputs), "steps": steps, "sequences": len(prompts)}
    return found | ({"failed": "tokens differ: " + "; ".join(different)} if different else {})


def table(cases: Mapping[str, dict[str, Any]]) -> str:
    lines = ["| round | compared | steps | sequences |", "|---|---|---|---|"]
    for name, case in cases.items():
        compared = ", ".join([*case["modes"], "alone"])
        lines.append(f"| {name} | {compared} | {case['steps']} | {case['sequences']} |")
    return "\n".join(lines)


def headline(cases: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    modes_used = ", ".join(next(iter(cases.values()))["modes"])
    steps = sum(case["steps"] for case in cases.values())
    return [{"what": f"equal tokens ({modes_used}, alone)", "value": steps, "unit": "steps"}]
