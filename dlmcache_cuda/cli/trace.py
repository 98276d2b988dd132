"""Decode a prompt and write a page that shows how its text came about.

One HTML file, for any browser, that loads nothing: the text step by step, what each layer computed
and what came from the cache, the drift that made it refresh, and how sure the model was. --json
prints the record itself; --from makes the page of a record that was saved.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from dlmcache_cuda.cli.decode import read_prompt
from dlmcache_cuda.cli.options import (
    add_decode_options,
    add_model_options,
    decode_options,
    load_model,
)

DEFAULT_OUTPUT = Path("trace.html")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("prompt", nargs="?", help="text; '-' or nothing reads standard input")
    parser.add_argument("--file", type=Path, help="read the prompt from this file")
    parser.add_argument(
        "--chat", action="store_true", help="send it as a user's message through the chat template"
    )
    parser.add_argument("--output", type=Path, help=f"the page (default: {DEFAULT_OUTPUT})")
    parser.add_argument(
        "--json",
        action="store_true",
        help="print the record as JSON; with --output the page is written too",
    )
    parser.add_argument(
        "--from",
        dest="saved",
        type=Path,
        metavar="FILE",
        help="make the page of a record that --json printed; decodes nothing",
    )
    parser.add_argument(
        "--sequence", type=int, default=0, help="with --from: which sequence (default: the first)"
    )
    add_decode_options(parser, gen_length=128)
    add_model_options(parser)


def run(arguments: argparse.Namespace) -> int:
    from dlmcache_cuda import trace_page

    output = arguments.output
    if output is None and not arguments.json:
        output = DEFAULT_OUTPUT
    if output is not None:
        _check_output(output)
    record = _decoded(arguments) if arguments.saved is None else _saved(arguments)
    page = trace_page(record, sequence=arguments.sequence)
    if arguments.json:
        print(json.dumps(record, ensure_ascii=False, allow_nan=False))
    if output is not None:
        _write(output, page)
        print(
            f"{output}: {len(page.encode()) / 2**20:.2f} MiB; open it in a browser", file=sys.stderr
        )
    return 0


def _decoded(arguments: argparse.Namespace) -> dict[str, Any]:
    import dlmcache_cuda

    if arguments.sequence != 0:
        raise ValueError("--sequence needs --from: one prompt makes one sequence")
    text = read_prompt(arguments)
    options = decode_options(arguments)
    prompt = [{"role": "user", "content": text}] if arguments.chat else text
    model = load_model(arguments)
    return dlmcache_cuda.decode(model, prompt, trace=True, **options).to_dict()


def _saved(arguments: argparse.Namespace) -> dict[str, Any]:
    if arguments.prompt is not None or arguments.file is not None:
        raise ValueError("--from makes the page of a saved record: leave out the prompt and --file")
    try:
        return json.loads(arguments.saved.read_text(encoding="utf-8"))
    except ValueError as error:  # not JSON, or not UTF-8
        raise ValueError(f"{arguments.saved} is not the JSON of a trace: {error}") from error


def _check_output(path: Path) -> None:
    """Refuses before the work what could not be written behind it."""
    if path.is_dir():
        raise ValueError(f"--output must be a file, {path} is a folder")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"--output: there is no folder {path.parent}")


def _write(path: Path, page: str) -> None:
    """Writes the whole page or none."""
    if path.exists() and not path.is_file():  # /dev/stdout, a pipe: not to be replaced by a file
        path.write_text(page, encoding="utf-8")
        return
    path = path.resolve()  # a link stays one
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        unfinished.write_text(page, encoding="utf-8")
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
