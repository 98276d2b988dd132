"""What fp8 weights lose on the bundled model: ``python -m benchmarks.fp8``.

Decodes held-out questions with and without ``weights="fp8"``, one token per step, and compares
answers, tokens, logits and the memory of the weights. Prints a Markdown table and writes JSON.
Speed is not compared: a CPU has no product of fp8 matrices.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

import dlmcache_cuda
from benchmarks.quality import BATCH_SIZE, SEED, differing
from dlmcache_cuda.assets.questions import GEN_LENGTH, check_answer, check_final, make_questions
from dlmcache_cuda.benchmark.machine import describe
from dlmcache_cuda.benchmark.policies import BLOCK_LENGTH


def decode(model: Any, asked: list[Any], preset: Any) -> Any:
    whole = preset is None or preset.block_length == preset.gen_length
    return dlmcache_cuda.decode(
        model,
        [[{"role": "user", "content": question.prompt}] for question in asked],
        gen_length=GEN_LENGTH,
        block_length=None if preset is not None and whole else BLOCK_LENGTH,
        cache="none" if preset is None else preset.config,
        batch_size=BATCH_SIZE,
        seed=SEED,
    )


def logits_error(models: dict[str, Any], canvases: list[torch.Tensor]) -> float:
    """Norm of the difference over the norm, over all positions of finished canvases."""
    differ = total = 0.0
    for canvas in canvases:
        plain, fp8 = (models[name].logits([canvas]).double() for name in ("plain", "fp8"))
        differ += float((fp8 - plain).square().sum())
        total += float(plain.square().sum())
    return (differ / total) ** 0.5


def lines_of(models: dict[str, Any], caches: list[str], count: int) -> Iterator[dict[str, Any]]:
    """A line of the table per cache and kind of weights."""
    asked = make_questions(count, SEED)
    presets = dlmcache_cuda.presets("tiny_llada")
    for cache in caches:
        preset = None if cache == "none" else presets[cache]
        expected = None
        for weights, model in models.items():
            out = decode(model, asked, preset)
            visible = [sequence.visible_ids.tolist() for sequence in out.sequences]
            expected = visible if expected is None else expected
            yield {
                "cache": cache,
                "weights": weights,
                "exact": sum(map(check_answer, asked, out.text)) / count,
                "final": sum(map(check_final, asked, out.text)) / count,
                "tokens_that_differ": differing(visible, expected),
                "rows_computed": out.stats.rows_computed,
            }


def table(lines: list[dict[str, Any]]) -> str:
    """Markdown."""
    text = [
        "| cache | weights | exact | final answer right | tokens that differ |",
        "|---|---|---|---|---|",
    ]
    for line in lines:
        shares = (f"{100 * line[name]:.1f} %" for name in ("exact", "final", "tokens_that_differ"))
        text.append(f"| `{line['cache']}` | {line['weights']} | {' | '.join(shares)} |")
    return "\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fp8", description=__doc__)
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--caches", nargs="+", default=["none", "dual", "elastic", "spa"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("build/bench/fp8.json"))
    arguments = parser.parse_args()
    models = {
        "plain": dlmcache_cuda.load(device=arguments.device),
        "fp8": dlmcache_cuda.load(device=arguments.device, weights="fp8"),
    }
    # Before any proxy is asked for, which would count.
    memory = {name: model.weight_bytes for name, model in models.items()}
    asked = make_questions(10, SEED)
    canvases = [sequence.ids for sequence in decode(models["plain"], asked, None).sequences]
    results = {
        "machine": describe(arguments.device),
        "dtype": str(models["plain"].dtype).removeprefix("torch."),
        "split": "heldout",
        "questions": arguments.questions,
        "seed": SEED,
        "weight_bytes": memory,
        "logits_error": logits_error(models, canvases),
        "lines": list(lines_of(models, arguments.caches, arguments.questions)),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results["lines"]))
    print(f"\nlogits off by {100 * results['logits_error']:.1f} %, weights {memory} bytes")
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    main()
