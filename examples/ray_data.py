"""Decode a file of prompts with Ray Data: one model per worker, batches go to whoever is free.

Reads JSON lines with a field "prompt" (text), writes them again with "answer" and "tokens":

    python examples/ray_data.py prompts.jsonl answers/ --model GSAI-ML/LLaDA-8B-Instruct \
        --workers 8 --gpus-per-worker 1 --cache elastic --threshold 0.9

Without --model the bundled model answers; without GPUs leave --gpus-per-worker out.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray


class Answer:
    """What every worker is: a model that stays loaded, called with one batch after the other."""

    def __init__(self, model: str | None, device: str, settings: dict[str, Any]) -> None:
        import dlmcache_cuda

        # Ray shows a worker the GPUs it was given and no others: cuda is the right one.
        self.model = dlmcache_cuda.load(model, device=device)
        self.settings = settings

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        import dlmcache_cuda

        chats = [[{"role": "user", "content": str(prompt)}] for prompt in batch["prompt"]]
        out = dlmcache_cuda.decode(self.model, chats, **self.settings)
        tokens = [sequence.visible_ids.numel() for sequence in out.sequences]
        return {**batch, "answer": out.text, "tokens": tokens}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("prompts", help="JSONL file with a field prompt")
    parser.add_argument("answers", type=Path, help="folder to write to; must not exist")
    parser.add_argument("--model", help="folder or hub id (default: the bundled model)")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--gpus-per-worker", type=float, default=0)
    parser.add_argument(
        "--cpus-per-worker",
        type=float,
        default=0.5,
        help="without GPUs; reading and writing need some too (default: %(default)s)",
    )
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--gen-length", type=int, default=96)
    parser.add_argument("--block-length", type=int, default=32)
    parser.add_argument("--cache", default="dual")
    parser.add_argument("--threshold", type=float, default=0.9)
    arguments = parser.parse_args(arguments)
    if arguments.answers.exists():
        parser.error(f"{arguments.answers} exists already")
    settings = {
        "gen_length": arguments.gen_length,
        "block_length": arguments.block_length,
        "cache": arguments.cache,
        "threshold": arguments.threshold,
        "seed": 0,
    }
    device = "cuda" if arguments.gpus_per_worker else "cpu"
    # Ray Data takes one of the two.
    if arguments.gpus_per_worker:
        resources = {"num_gpus": arguments.gpus_per_worker}
    else:
        resources = {"num_cpus": arguments.cpus_per_worker}
    answered = ray.data.read_json(arguments.prompts, lines=True).map_batches(
        Answer,
        fn_constructor_args=(arguments.model, device, settings),
        batch_size=arguments.batch_size,
        compute=ray.data.ActorPoolStrategy(size=arguments.workers),
        **resources,
    )
    answered.write_json(str(arguments.answers.absolute()))


if __name__ == "__main__":
    main()
