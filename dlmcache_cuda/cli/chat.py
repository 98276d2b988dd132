"""Talk to a model, one message per line.

/reset forgets the conversation, /exit or end of input leaves. The bundled model knows single
questions only, so it forgets after every answer.

On a terminal an answer is shown while it is decoded: what is final as it is, the draft dim. To a
pipe text is written as soon as it is final.
"""

from __future__ import annotations

import argparse
import sys

from dlmcache_cuda.cli.live_text import show_answer
from dlmcache_cuda.cli.options import (
    add_decode_options,
    add_model_options,
    decode_options,
    load_model,
)
from dlmcache_cuda.decoding.arguments import check_seeds
from dlmcache_cuda.decoding.sequence_settings import SequenceSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--forget", action="store_true", help="start afresh with every message")
    add_decode_options(parser, gen_length=96)
    add_model_options(parser)


def run(arguments: argparse.Namespace) -> int:
    options = decode_options(arguments)
    model = load_model(arguments)
    # Wrong options end the command here; what goes wrong with a message does not.
    SequenceSettings(model, {k: v for k, v in options.items() if k != "seed"}, "chat")
    check_seeds(options["seed"], 1)
    forget = arguments.forget or arguments.model is None
    interactive = sys.stdin.isatty()
    if interactive:
        print("One message per line; /reset forgets, /exit leaves.")
    if arguments.model is None:
        from dlmcache_cuda.assets.questions import make_questions

        print(f"The bundled model answers questions like:\n{make_questions(1, seed=1)[0].prompt}")
    messages: list[dict[str, str]] = []
    while True:
        try:
            text = input("> " if interactive else "").strip()
        except EOFError:
            return 0
        if text == "/exit":
            return 0
        if text == "/reset":
            messages.clear()
            continue
        if not text:
            continue
        messages.append({"role": "user", "content": text})
        try:
            answer = show_answer(model, messages, **options)
        except ValueError as error:
            # A message that is too long is the user's to shorten; the conversation goes on.
            messages.pop()
            print(f"dlmcache: error: {error}", file=sys.stderr)
            continue
        if forget:
            messages.clear()
        else:
            messages.append({"role": "assistant", "content": answer})
