"""Answer over HTTP with Ray Serve: replicas of a model, requests that come together share a batch.

    python examples/ray_serve.py --model GSAI-ML/LLaDA-8B-Instruct --replicas 4 --gpus-per-replica 1
    curl localhost:8000 -d '{"prompt": "Why is the sky blue?"}'

A batch is decoded as a whole. One GPU is served better by `dlmcache serve`, whose requests join and
leave between steps; this is for many, behind one address.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import time
from collections.abc import Sequence
from typing import Any

from ray import serve
from starlette.requests import Request
from starlette.responses import JSONResponse

MAX_BATCH_SIZE = 16
BATCH_WAIT_SECONDS = 0.02


@serve.deployment(max_ongoing_requests=4 * MAX_BATCH_SIZE)
class Answers:
    """One replica: a model, and a queue that gathers requests into batches."""

    def __init__(self, model: str | None, device: str, settings: dict[str, Any]) -> None:
        import dlmcache_cuda

        self.model = dlmcache_cuda.load(model, device=device)
        self.settings = settings

    async def __call__(self, request: Request) -> JSONResponse:
        try:
            body = await request.json()
        except ValueError:
            body = None
        prompt = body.get("prompt") if isinstance(body, dict) else None
        if not isinstance(prompt, str) or not prompt.strip():
            return _error('the body must be JSON {"prompt": "..."} with a text that is not empty')
        try:
            self._check(prompt)
        except ValueError as error:
            return _error(str(error))
        return JSONResponse(await self.answer(prompt))

    def _check(self, prompt: str) -> None:
        """Refuses a prompt alone: in a batch it would take the others with it."""
        ids = self.model.tokenizer.apply_chat_template(
            _chat(prompt), add_generation_prompt=True, return_dict=False
        )
        room = self.model.config.max_sequence_length - self.settings["gen_length"]
        if len(ids) > room:
            raise ValueError(f"the prompt has {len(ids)} tokens; there is room for {room}")
        if self.model.mask_token_id in ids:
            raise ValueError("the prompt holds the mask token")

    @serve.batch(max_batch_size=MAX_BATCH_SIZE, batch_wait_timeout_s=BATCH_WAIT_SECONDS)
    async def answer(self, prompts: list[str]) -> list[dict[str, Any]]:
        import dlmcache_cuda

        # In a thread: meanwhile the replica accepts the requests of the next batch.
        out = await asyncio.to_thread(
            dlmcache_cuda.decode, self.model, list(map(_chat, prompts)), **self.settings
        )
        return [
            {
                "answer": sequence.text,
                "tokens": sequence.visible_ids.numel(),
                "batch_size": len(prompts),
            }
            for sequence in out.sequences
        ]


def _chat(prompt: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": prompt}]


def _error(message: str) -> JSONResponse:
    return JSONResponse({"error": message}, status_code=422)


def application(arguments: argparse.Namespace) -> serve.Application:
    """What ``serve.run`` starts."""
    settings = {
        "gen_length": arguments.gen_length,
        "block_length": arguments.block_length,
        "cache": arguments.cache,
        "threshold": arguments.threshold,
    }
    device = "cuda" if arguments.gpus_per_replica else "cpu"
    return Answers.options(
        num_replicas=arguments.replicas,
        ray_actor_options={"num_gpus": arguments.gpus_per_replica},
    ).bind(arguments.model, device, settings)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", help="folder or hub id (default: the bundled model)")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--gpus-per-replica", type=float, default=0)
    parser.add_argument("--gen-length", type=int, default=96)
    parser.add_argument("--block-length", type=int, default=32)
    parser.add_argument("--cache", default="dual")
    parser.add_argument("--threshold", type=float, default=0.9)
    return parser.parse_args(arguments)


def start(arguments: argparse.Namespace) -> None:
    serve.start(http_options={"host": arguments.host, "port": arguments.port})
    serve.run(application(arguments))


def main() -> None:
    arguments = parse()
    start(arguments)
    # A service manager stops programs with SIGTERM: as by hand.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    print(f"serving on http://{arguments.host}:{arguments.port}", flush=True)
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        serve.shutdown()


if __name__ == "__main__":
    main()
