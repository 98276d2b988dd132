"""Whole decoding runs: every cache with fixed-k and threshold commits, against vanilla."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass

import dlmcache_cuda
from dlmcache_cuda.assets.questions import check_answer, make_questions

BLOCK_LENGTH = 32
THRESHOLD = 0.9
SEED = 20261122


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table."""

    cache: str
    threshold: float | None

    def __str__(self) -> str:
        commit = "1 token/step" if self.threshold is None else f"threshold {self.threshold}"
        return f"{self.cache}, {commit}"


def settings() -> Iterator[Setting]:
    for threshold in (None, THRESHOLD):
        for cache, policy in dlmcache_cuda.available_policies().items():
            # A method with an order of its own compares no confidences.
            if threshold is None or policy.remasking is None:
                yield Setting(cache, threshold)


def measure(device: str, questions: int, batch_size: int, repeats: int, progress) -> list[dict]:
    """Decodes held-out questions with the bundled model, every cache with its preset for it; one
    result per setting.

    The repetitions of all settings are interleaved; figures are medians over repetitions. Early
    stop is on for all of them.
    """
    model = dlmcache_cuda.load(device=device)
    presets = dlmcache_cuda.presets("tiny_llada")
    asked = make_questions(questions, SEED)
    chats = [[{"role": "user", "content": question.prompt}] for question in asked]
    runs: dict[Setting, list] = {setting: [] for setting in settings()}
    for _ in range(repeats + 1):  # the first round warms up
        for setting, outputs in runs.items():
            outputs.append(
                dlmcache_cuda.decode(
                    model,
                    chats,
                    threshold=setting.threshold,
                    batch_size=batch_size,
                    seed=SEED,
                    **presets[setting.cache].arguments(),
                )
            )
            progress()
    vanilla = statistics.median(
        out.stats.tokens_per_second for out in runs[Setting("none", None)][1:]
    )
    rows = runs[Setting("none", None)][0].stats.rows_computed
    results = []
    for setting, outputs in runs.items():
        stats = outputs[-1].stats
        speeds = [out.stats.tokens_per_second for out in outputs[1:]]
        results.append(
            {
                "setting": str(setting),
                "exact": sum(map(check_answer, asked, outputs[-1].text)),
                "questions": questions,
                "batch_size": batch_size,
                "tokens_per_second": statistics.median(speeds),
                "tokens_per_second_range": [min(speeds), max(speeds)],
                "speed_up": statistics.median(speeds) / vanilla,
                "tokens_per_forward": stats.tokens_per_forward,
                "forwards": stats.forwards,
                "seconds": statistics.median(out.stats.seconds["total"] for out in outputs[1:]),
                "rows_relative": stats.rows_computed / rows,
                "refreshes": stats.refreshes,
            }
        )
    return results


def table(results: list[dict]) -> str:
    """The results as Markdown."""
    lines = [
        "| setting | exact answers | visible tokens/s (range) | speed-up | tokens/forward "
        "| forwards | rows against vanilla | seconds |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for result in results:
        low, high = result["tokens_per_second_range"]
        lines.append(
            f"| {result['setting']} | {result['exact']}/{result['questions']} "
            f"| {result['tokens_per_second']:.0f} ({low:.0f}-{high:.0f}) "
            f"| {result['speed_up']:.2f}x | {result['tokens_per_forward']:.2f} "
            f"| {result['forwards']} | {100 * result['rows_relative']:.1f} % "
            f"| {result['seconds']:.2f} |"
        )
    return "\n".join(lines)
