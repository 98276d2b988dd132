r"""Fill the holes of a text: dlmcache fill "def f(x):[MASK:32]return y".

[MASK:n] is a hole of n tokens; \[MASK:n] is the text itself. The filled text goes to standard
output and a line of statistics to standard error; --json prints both as one JSON object.
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
    parser.add_argument("text", nargs="?", help="text with holes; '-' or nothing: standard input")
    parser.add_argument("--file", type=Path, help="read the text from this file")
    parser.add_argument(
        "--question",
        metavar="TEXT",
        help="send this through the chat template first; the text with holes is the answer",
    )
    parser.add_argument(
        "--holes", action="store_true", help="print only what was put into the holes, one per line"
    )
    parser.add_argument(
        "--json", action="store_true", help="print text, holes, ids and statistics as JSON"
    )
    add_decode_options(parser, gen_length=None)
    add_model_options(parser)


def read_text(arguments: argparse.Namespace) -> str:
    if arguments.file is not None:
        if arguments.text is not None:
            raise ValueError("give a text or --file, not both")
        return arguments.file.read_text(encoding="utf-8")
    if arguments.text in (None, "-"):
        if sys.stdin.isatty():
            raise ValueError("no text: give one as argument, with --file, or on standard input")
        return sys.stdin.read()
    return arguments.text


def run(arguments: argparse.Namespace) -> int:
    import dlmcache_cuda

    text = read_text(arguments)
    options = decode_options(arguments)
    if arguments.question is not None:
        text = [
            {"role": "user", "content": arguments.question},
            {"role": "assistant", "content": text},
        ]
    out = dlmcache_cuda.fill(load_model(arguments), text, **options)
    if arguments.json:
        print(json.dumps(out.to_dict(), ensure_ascii=False))
        return 0
    print("\n".join(out.holes[0]) if arguments.holes else out.text[0])
    stats = out.output.stats
    print(
        f"{stats.visible_tokens} tokens in {stats.seconds['total']:.2f} s "
        f"({stats.tokens_per_second:.1f}/s), {stats.forwards} forwards",
        file=sys.stderr,
    )
    return 0
