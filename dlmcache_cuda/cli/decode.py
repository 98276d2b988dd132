"""Decode a prompt from the command line, a file or standard input.

The text goes to standard output and a line of statistics to standard error; --json prints both as
one JSON object. --verbose also tells, before the work begins, how much memory it will take.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from dlmcache_cuda.cli.options import (
    add_decode_options,
    add_model_options,
    decode_options,
    load_model,
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", nargs="?", help="text; '-' or nothing reads standard input")
    parser.add_argument("--file", type=Path, help="read the prompt from this file")
    parser.add_argument(
        "--chat", action="store_true", help="send it as a user's message through the chat template"
    )
    parser.add_argument(
        "--json", action="store_true", help="print text, ids and statistics as JSON"
    )
    parser.add_argument(
        "--verbose", action="store_true", help="first print the predicted memory, on standard error"
    )
    add_decode_options(parser, gen_length=128)
    add_model_options(parser)


def read_prompt(arguments: argparse.Namespace) -> str:
    if arguments.file is not None:
        if arguments.prompt is not None:
            raise ValueError("give a prompt or --file, not both")
        text = arguments.file.read_text(encoding="utf-8")
    elif arguments.prompt in (None, "-"):
        if sys.stdin.isatty():
            raise ValueError("no prompt: give one as argument, with --file, or on standard input")
        text = sys.stdin.read()
    else:
        text = arguments.prompt
    if not text.strip():
        raise ValueError("the prompt is empty")
    return text


def _prediction(model, prompt, options):
    import dlmcache_cuda
    from dlmcache_cuda.decoding.prompts import tokenize_prompts

    (ids,) = tokenize_prompts(model, prompt, options["gen_length"])
    names = ("gen_length", "block_length", "cache", "cfg_scale", "alg")
    return dlmcache_cuda.predict_memory(
        model, ids.numel(), **{name: options[name] for name in names}
    )


def run(arguments: argparse.Namespace) -> int:
    import dlmcache_cuda

    text = read_prompt(arguments)
    options = decode_options(arguments)
    prompt = [{"role": "user", "content": text}] if arguments.chat else text
    model = load_model(arguments)
    if arguments.verbose:
        print(f"memory: {_prediction(model, prompt, options)}", file=sys.stderr)
    out = dlmcache_cuda.decode(model, prompt, **options)
    if arguments.json:
        print(json.dumps(out.to_dict(), ensure_ascii=False))
        return 0
    print(out.text[0])
    stats = out.stats
    print(
        f"{stats.visible_tokens} tokens in {stats.seconds['total']:.2f} s "
        f"({stats.tokens_per_second:.1f}/s), {stats.forwards} forwards, "
        f"{stats.tokens_per_forward:.2f} tokens per forward, "
        f"{100 * stats.rows_computed / max(1, stats.rows_vanilla):.1f} % of vanilla's rows",
        file=sys.stderr,
    )
    return 0
