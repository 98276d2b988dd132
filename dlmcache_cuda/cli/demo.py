"""Decode held-out questions with each cache and compare: answers, speed, rows computed.

First the first question's answer is shown while it is decoded: on a terminal what is final as it
is, the draft dim.

With the bundled model the questions are generated and their answers verified. With --model the
prompts are of a general kind, and the table tells whether the text equals vanilla's.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from typing import Any

from dlmcache_cuda.cli.live_text import show_answer
from dlmcache_cuda.cli.options import add_model_options, load_model

GENERAL_PROMPTS = (
    "What is the capital of France, and what is it known for?",
    "Anna has 3 boxes with 12 pencils each and gives away 7 pencils. How many are left?",
    "Write a Python function that returns the n-th Fibonacci number.",
    "Explain in two sentences why the sky is blue.",
)
BUNDLED_BLOCK_LENGTH = 32


@dataclass(frozen=True, slots=True)
class Setting:
    """One line of the table."""

    cache: str
    threshold: float | None

    @property
    def commit(self) -> str:
        return "1/step" if self.threshold is None else f">= {self.threshold:g}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--questions", type=int, default=6, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=2026, help="which (default: %(default)s)")
    parser.add_argument("--gen-length", type=int, help="default: 96 (bundled), else 128")
    parser.add_argument("--threshold", type=float, default=0.9, help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    add_model_options(parser)


def run(arguments: argparse.Namespace) -> int:
    import dlmcache_cuda
    from dlmcache_cuda.assets import questions as bundled

    if arguments.questions < 1:
        raise ValueError(f"--questions must be at least 1, got {arguments.questions}")
    if not 0 < arguments.threshold <= 1:
        raise ValueError(f"--threshold must be in (0, 1], got {arguments.threshold}")
    try:
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
        from rich.table import Table
        from rich.text import Text
    except ModuleNotFoundError as error:
        raise RuntimeError("the demo needs rich: pip install 'dlmcache_cuda[cli]'") from error

    console = Console(stderr=arguments.json)
    model = load_model(arguments)
    verified = arguments.model is None
    if verified:
        asked = bundled.make_questions(arguments.questions, arguments.seed)
        texts = [question.prompt for question in asked]
        gen_length, block_length = arguments.gen_length or bundled.GEN_LENGTH, BUNDLED_BLOCK_LENGTH
    else:
        asked = []
        texts = [
            GENERAL_PROMPTS[number % len(GENERAL_PROMPTS)] for number in range(arguments.questions)
        ]
        gen_length, block_length = arguments.gen_length or 128, None
    if gen_length % (block_length or 1):
        block_length = None
    chats = [[{"role": "user", "content": text}] for text in texts]
    settings = [
        Setting(cache, threshold)
        for threshold in (None, arguments.threshold)
        for cache, policy in dlmcache_cuda.available_policies().items()
        # A method with an order of its own compares no confidences.
        if threshold is None or policy.remasking is None
    ]

    # Published settings count on hundreds of tokens; the bundled model has them in its measure.
    fitted = dlmcache_cuda.presets(model.name) if verified else {}

    def options(setting: Setting) -> dict[str, Any]:
        preset = fitted.get(setting.cache)
        whole = preset is not None and preset.block_length == preset.gen_length
        return {
            "gen_length": gen_length,
            "block_length": None if whole else block_length,
            "threshold": setting.threshold,
            "cache": setting.cache if preset is None else preset.config,
            "seed": 0,
            "batch_size": 1,
        }

    # One token per step is the one to watch; what it takes to warm up does not count below.
    shown = Setting("dual", None)
    if arguments.json:
        dlmcache_cuda.decode(model, chats[0], **options(shown))
    else:
        console.print(Text.assemble(("Question  ", "bold"), texts[0]))
        show_answer(model, chats[0], heading="Answer    ", **options(shown))
        console.print()
    outputs = {}
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} answers"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    with progress:
        for setting in settings:
            task = progress.add_task(f"{setting.cache:11} {setting.commit}", total=len(chats))

            def on_step(event, task=task):
                done = sum(update.stop_reason is not None for update in event.updates)
                if done:
                    progress.advance(task, done)

            outputs[setting] = dlmcache_cuda.decode(
                model, chats, callback=on_step, **options(setting)
            )

    results = [
        _result(setting, out, outputs[settings[0]], asked) for setting, out in outputs.items()
    ]
    if arguments.json:
        print(json.dumps(results, indent=1))
        return 0
    title = f"{len(chats)} questions, one at a time, {gen_length} positions each"
    table = Table(
        title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1)
    )
    table.add_column("cache", no_wrap=True)
    table.add_column("commits", no_wrap=True)
    columns = ("right" if verified else "same text", "tokens/s", "/forward", "rows", "seconds")
    for column in (*columns, "speed"):
        table.add_column(column, justify="right", no_wrap=True)
    for setting, result in zip(settings, results, strict=True):
        if setting.cache == "none" and setting.threshold is not None:
            table.add_section()
        table.add_row(
            setting.cache,
            setting.commit,
            f"{result['right']}/{len(chats)}",
            f"{result['tokens_per_second']:.0f}",
            f"{result['tokens_per_forward']:.2f}",
            f"{100 * result['rows_relative']:.3g} %",
            f"{result['seconds']:.2f}",
            f"{result['speed_up']:.1f}x",
        )
    console.print(table)
    console.print(
        "commits: tokens per step, or the confidence from which a token is committed. tokens/s and "
        "/forward (tokens per forward) count what stands before the end of the text. rows: rows "
        "computed. rows and speed are against the first line.",
        highlight=False,
    )
    return 0


def _result(setting: Setting, out, vanilla, asked) -> dict:
    from dlmcache_cuda.assets.questions import check_answer

    if asked:
        right = sum(map(check_answer, asked, out.text))
    else:
        right = sum(text == expected for text, expected in zip(out.text, vanilla.text, strict=True))
    return {
        "cache": setting.cache,
        "commits": setting.commit,
        "right": right,
        "tokens_per_second": out.stats.tokens_per_second,
        "tokens_per_forward": out.stats.tokens_per_forward,
        "rows_relative": out.stats.rows_computed / vanilla.stats.rows_computed,
        "seconds": out.stats.seconds["total"],
        "speed_up": vanilla.stats.seconds["total"] / out.stats.seconds["total"],
    }
