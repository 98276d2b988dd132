"""Decode prompts without and with a cache and show what the cache changes.

Per prompt: tokens that are the same, the first step that committed another one, whether the answer
is the same, forwards, rows computed. For all: the divergence of the distributions that tokens were
committed from, and speed. Exits with 0 whatever the agreement is, unless --min-agreement is given.
"""

from __future__ import annotations

import argparse
import json
import sys

from dlmcache_cuda.cli.options import (
    add_decode_options,
    add_model_options,
    decode_options,
    load_model,
)
from dlmcache_cuda.cli.progress import progress_bar
from dlmcache_cuda.cli.prompts import add_prompt_options, read_prompts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_prompt_options(parser, questions=8)
    parser.add_argument(
        "--kl-steps", type=int, default=64,
        help="steps at which distributions are compared; 0: none (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument(
        "--repeats", type=int, default=3, help="timed pairs of runs; 0: none (default: %(default)s)"
    )
    parser.add_argument("--batch-size", type=int, help="prompts in flight (default: at most 16)")
    parser.add_argument(
        "--min-agreement", type=float, metavar="SHARE",
        help="exit with 1 if a smaller share of the tokens is the same",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON")
    add_decode_options(parser, gen_length=None)
    add_model_options(parser)


def run(arguments: argparse.Namespace) -> int:
    import dlmcache_cuda

    least = arguments.min_agreement
    if least is not None and not 0 <= least <= 1:
        raise ValueError(f"--min-agreement must be in [0, 1], got {least}")
    if arguments.cache == "none":
        raise ValueError("--cache: name the cache that is to be compared with none")
    prompts = read_prompts(arguments)
    if arguments.gen_length is None:
        arguments.gen_length = prompts.gen_length
    options = decode_options(arguments)
    model = load_model(arguments)
    with progress_bar("prompts") as report:
        result = dlmcache_cuda.verify(
            model,
            prompts.prompts,
            score=None if prompts.questions is None else prompts.score,
            kl_steps=arguments.kl_steps,
            repeats=arguments.repeats,
            batch_size=arguments.batch_size,
            progress=report,
            **options,
        )
    if arguments.json:
        print(json.dumps(result.to_dict(), indent=1, ensure_ascii=False))
    else:
        result.table().show()
    if least is not None and result.agreement < least:
        print(
            f"dlmcache: agreement {result.agreement:.4f} is below --min-agreement {least:g}",
            file=sys.stderr,
        )
        return 1
    return 0
