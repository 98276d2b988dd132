"""Find the cheapest settings of a cache that keep a model's responses what they are.

Searches the cache's settings on prompts of yours, confirms the choice on prompts held out, shows
the frontier of cost and agreement that was explored, and writes a small JSON file that --cache of
every command and decode(cache=...) take. Exits with 1 when no settings reach the target.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from dlmcache_cuda.cli.options import (
    add_decode_options,
    add_model_options,
    decode_options,
    load_model,
    setting_values,
)
from dlmcache_cuda.cli.progress import progress_bar
from dlmcache_cuda.cli.prompts import add_prompt_options, read_prompts
from dlmcache_cuda.tuning.trial import COSTS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, help="file for the choice; must end in .json")
    add_prompt_options(parser, questions=24)
    group = parser.add_argument_group("search")
    group.add_argument(
        "--target", type=float, default=0.99,
        help="share of the tokens that must stay (default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--correct", action="store_true",
        help="bundled questions: the target is of correct answers instead, as a share of all that "
        "may be lost",
    )  # fmt: skip
    group.add_argument(
        "--confidence", type=float, default=0.9,
        help="how surely, 0.5 to 1; 0.5: without a margin (default: %(default)s)",
    )  # fmt: skip
    group.add_argument("--cost", choices=COSTS, default="rows", help="default: %(default)s")
    group.add_argument(
        "--try", action="append", default=[], dest="grid", metavar="NAME=VALUE,VALUE",
        help="values to try for a setting of the cache, instead of its own grid; may be repeated",
    )  # fmt: skip
    group.add_argument(
        "--try-threshold", type=float, nargs="+", metavar="T", help="thresholds to try besides"
    )
    group.add_argument(
        "--try-block-length", type=int, nargs="+", metavar="N", help="block lengths to try besides"
    )
    group.add_argument(
        "--held-out", type=float, default=0.25,
        help="share of the prompts that the choice is confirmed by (default: %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--max-forwards", type=int, default=50_000,
        help="steps of sequences to make at most (default: %(default)s)",
    )  # fmt: skip
    group.add_argument("--state", type=Path, help="file of results, to go on after an interruption")
    group.add_argument("--batch-size", type=int, help="prompts in flight (default: at most 16)")
    group.add_argument("--all", action="store_true", help="show all trials, not only the frontier")
    group.add_argument("--json", action="store_true", help="print JSON")
    add_decode_options(parser, gen_length=None)
    add_model_options(parser)


def run(arguments: argparse.Namespace) -> int:
    import dlmcache_cuda

    if arguments.out is not None:
        if arguments.out.suffix != ".json":
            raise ValueError(f"--out must end in .json, got {str(arguments.out)!r}")
        if not arguments.out.absolute().parent.is_dir():
            raise ValueError(f"--out: there is no folder {str(arguments.out.parent)!r}")
    prompts = read_prompts(arguments)
    if arguments.gen_length is None:
        arguments.gen_length = prompts.gen_length
    options = decode_options(arguments)
    if arguments.correct and prompts.questions is None:
        raise ValueError("--correct needs the bundled questions: no --prompt, --file or --model")
    grid = _grid(options["cache"], arguments.grid)
    model = load_model(arguments)
    with progress_bar("prompts") as report:
        found = dlmcache_cuda.calibrate(
            model,
            prompts.prompts,
            target=arguments.target,
            score=prompts.score if arguments.correct else None,
            confidence=arguments.confidence,
            cost=arguments.cost,
            grid=grid,
            thresholds=arguments.try_threshold,
            search_block_lengths=arguments.try_block_length,
            held_out=arguments.held_out,
            max_forwards=arguments.max_forwards,
            state=arguments.state,
            batch_size=arguments.batch_size,
            progress=report,
            **options,
        )
    if arguments.json:
        print(json.dumps(found.to_dict(), indent=1))
    else:
        found.table(all_trials=arguments.all).show()
    if found.chosen is None:
        print(f"dlmcache: {found.why_nothing()}", file=sys.stderr)
        return 1
    if arguments.out is not None:
        print(f"written: {found.save(arguments.out)}", file=sys.stderr)
    return 0


def _grid(cache: Any, texts: list[str]) -> dict[str, list[Any]]:
    """Values by setting from ``NAME=VALUE,VALUE`` texts."""
    config = getattr(cache, "config", cache)
    grid: dict[str, list[Any]] = {}
    for text in texts:
        name, separator, values = text.partition("=")
        if not separator or not values.strip(","):
            raise ValueError(f"--try must be NAME=VALUE,VALUE,..., got {text!r}")
        if name in grid:
            raise ValueError(f"--try {name} is given twice")
        grid[name] = [
            setting_values(config, [f"{name}={value}"], "--try")[name]
            for value in values.split(",")
            if value
        ]
    return grid
