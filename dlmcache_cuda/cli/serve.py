"""Serve a model behind OpenAI's API, with streaming and continuous batching.

/v1/completions, /v1/chat/completions, /v1/models, /health, /metrics and /docs. Requests join and
leave the running batch between steps; those of equal decode settings share a batch. The decoding
options are what requests get that say nothing. Ends with SIGINT or SIGTERM, after running requests.
Needs: pip install 'dlmcache_cuda[serve]'.
"""

from __future__ import annotations

import argparse
import os
import sys

from dlmcache_cuda.cli.options import (
    add_decode_options,
    add_model_options,
    decode_options,
    load_model,
)

_LOG_LEVELS = ("critical", "error", "warning", "info", "debug", "trace")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--host", default="127.0.0.1", help="default: %(default)s, this machine")
    parser.add_argument(
        "--port", type=int, default=8000, help="default: %(default)s; 0: a free one"
    )
    parser.add_argument("--name", help="what requests call the model (default: its folder or id)")
    parser.add_argument(
        "--api-key",
        default=os.environ.get("DLMCACHE_API_KEY"),
        help="bearer token that requests must bring (default: $DLMCACHE_API_KEY, else none)",
    )
    parser.add_argument(
        "--fixed", action="store_true", help="requests may not change cache, threshold, steps, ..."
    )
    parser.add_argument(
        "--shutdown-seconds",
        type=int,
        default=30,
        help="for running requests after a signal (default: %(default)s)",
    )
    parser.add_argument(
        "--log-level", default="info", choices=_LOG_LEVELS, help="default: %(default)s"
    )
    limits = parser.add_argument_group("limits", "What is beyond is refused with a status.")
    add = limits.add_argument
    add("--slots", type=int, default=8, help="sequences of a batch (default: %(default)s)")
    add("--max-lanes", type=int, default=2, help="batches of different settings (default: 2)")
    add("--max-queue", type=int, default=256, help="sequences that wait; 429 (default: 256)")
    add("--max-connections", type=int, default=512, help="requests at once; 429 (default: 512)")
    add("--max-prompt-length", type=int, help="tokens; 400 (default: 2048, or half the model's)")
    add("--max-gen-length", type=int, help="tokens; 400 (default: 1024, or half the model's)")
    add("--max-choices", type=int, default=16, help="prompts times n; 400 (default: 16)")
    add("--max-body-bytes", type=int, default=1 << 20, help="413 (default: %(default)s)")
    add_decode_options(parser, gen_length=128, blocks="32, or the cache file's", of_one_call=False)
    add_model_options(parser)


def run(arguments: argparse.Namespace) -> int:
    try:
        from dlmcache_cuda.serving import bind, create_app, serve
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("dlmcache_cuda"):
            raise
        raise RuntimeError(
            f"serve needs {error.name}: pip install 'dlmcache_cuda[serve]'"
        ) from error

    if not 0 <= arguments.port <= 65535:
        raise ValueError(f"--port must be in [0, 65535], got {arguments.port}")
    if arguments.shutdown_seconds < 0:
        raise ValueError(f"--shutdown-seconds must be at least 0, got {arguments.shutdown_seconds}")
    if arguments.api_key == "":
        raise ValueError(
            "--api-key and DLMCACHE_API_KEY must not be empty; leave them out to ask for no key"
        )
    # A port that is taken is told before gigabytes are read.
    with bind(arguments.host, arguments.port) as listener:
        model = load_model(arguments)
        limits = _limits(arguments, model.config.max_sequence_length)
        defaults = _defaults(arguments, model, limits)
        app = create_app(
            model, defaults=defaults, limits=limits, name=arguments.name, api_key=arguments.api_key
        )
        # What has no room, or no sense, is told now and not to the first client.
        app.state.engine.warm_up(defaults.settings)
        print(
            f"{arguments.name or model.name} on {model.device}: {limits.num_slots} slots, prompts "
            f"of up to {limits.max_prompt_length} tokens, answers of up to {limits.max_gen_length}",
            file=sys.stderr,
        )
        serve(
            app,
            listener,
            shutdown_seconds=arguments.shutdown_seconds,
            log_level=arguments.log_level,
        )
    return 0


def _limits(arguments: argparse.Namespace, max_sequence_length: int):
    from dlmcache_cuda.serving import Limits

    lengths = {
        "max_prompt_length": arguments.max_prompt_length,
        "max_gen_length": arguments.max_gen_length,
    }
    limits = Limits(
        num_slots=arguments.slots,
        max_lanes=arguments.max_lanes,
        max_queue=arguments.max_queue,
        max_connections=arguments.max_connections,
        max_choices=arguments.max_choices,
        max_body_bytes=arguments.max_body_bytes,
        **{name: length for name, length in lengths.items() if length is not None},
    )
    given = [name for name, length in lengths.items() if length is not None]
    return limits.fitted_to(max_sequence_length, given)


def _defaults(arguments: argparse.Namespace, model, limits):
    from dlmcache_cuda.serving import ServerDefaults
    from dlmcache_cuda.serving.decode_settings import lane_settings, settings_of_options
    from dlmcache_cuda.serving.errors import ApiError

    options = decode_options(arguments)
    base = settings_of_options(options)
    max_tokens = options["gen_length"]
    try:
        settings, _ = lane_settings(
            model, base, {"steps": options["steps"]}, max_tokens, limits.max_length
        )
    except ApiError as error:
        raise ValueError(error.message) from error
    longest = settings.longest(limits.max_gen_length)
    if longest == 0:
        raise ValueError(
            f"--block-length must be at most {limits.max_gen_length}, the longest answer, "
            f"got {settings.block_length}"
        )
    max_tokens = min(max_tokens, longest)
    return ServerDefaults(settings, max_tokens, arguments.fixed)
