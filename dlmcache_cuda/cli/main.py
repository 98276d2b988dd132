"""Entry point: finds the command, and turns errors into one line and an exit code."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from dlmcache_cuda.cli import doctor

try:
    from dlmcache_cuda.cli import (
        bench,
        calibrate,
        chat,
        decode,
        demo,
        env,
        eval,
        fill,
        presets,
        serve,
        trace,
        verify,
    )
except ImportError as error:
    # The compiled operators cannot be loaded; doctor is what still runs.
    UNUSABLE: ImportError | None = error
    COMMANDS = (doctor,)
else:
    UNUSABLE = None
    COMMANDS = (
        demo,
        decode,
        fill,
        chat,
        trace,
        verify,
        calibrate,
        serve,
        presets,
        eval,
        bench,
        env,
        doctor,
    )

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


def build_parser() -> argparse.ArgumentParser:
    import dlmcache_cuda

    parser = argparse.ArgumentParser(
        prog="dlmcache",
        description="Fast, faithful decoding of diffusion language models.",
        epilog="Exit codes: 0 done, 1 failed, 2 wrong use or input, 130 interrupted. "
        "DLMCACHE_DEBUG=1 shows tracebacks.",
    )
    parser.add_argument(
        "--version", action="version", version=f"dlmcache_cuda {dlmcache_cuda.__version__}"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for module in COMMANDS:
        name = module.__name__.rpartition(".")[2]
        summary = module.__doc__.strip().splitlines()[0]
        command = commands.add_parser(name, help=summary, description=module.__doc__)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    try:
        given = list(sys.argv[1:] if arguments is None else arguments)
        if UNUSABLE is not None and given[:1] != ["doctor"]:
            raise ImportError(f"{UNUSABLE}; `dlmcache doctor` tells more")
        parsed = build_parser().parse_args(given, argparse.Namespace(words=given))
        return parsed.run(parsed) or 0
    except KeyboardInterrupt:
        print("dlmcache: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output went away; python would complain again when it closes stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except Exception as error:
        if os.environ.get("DLMCACHE_DEBUG") == "1":
            raise
        print(f"dlmcache: error: {error}", file=sys.stderr)
        wrong_use = isinstance(error, (ValueError, TypeError, FileNotFoundError, IsADirectoryError))
        return EXIT_USAGE if wrong_use else EXIT_FAILED
