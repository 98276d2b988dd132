"""Measure what decoding costs: any model, cache, batch size and length, against vanilla.

Without a suite all combinations of what is given are measured, each beside vanilla and stock
transformers. Every repetition is kept at once: an interrupted run goes on when it is called again,
and what has been measured is not measured again. Under torchrun or accelerate the processes of a
machine share the rounds, each on the GPU of its LOCAL_RANK. Needs the extra 'bench'.
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SUITE_NAMES = ("quality", "speed", "batch", "memory", "stock")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what is measured")
    what.add_argument(
        "--suite",
        choices=(*SUITE_NAMES, "targets"),
        help="a named set instead of combinations, see docs/benchmarks.md; targets: all of them",
    )
    what.add_argument(
        "--model",
        nargs="+",
        metavar="MODEL",
        help="bundled (default), random:LAYERSxWIDTH (random:12x512, random:4x256:vocab=32000), a "
        "checkpoint's folder or hub id",
    )
    what.add_argument(
        "--policies",
        nargs="+",
        metavar="POLICY",
        help="all (default), names, elastic@LLaDA-8B-Instruct/gsm8k for published settings, JSON "
        """such as '{"cache": "elastic", "gamma": 0.5, "block_length": 96}', or a .json file""",
    )
    what.add_argument(
        "--commits", nargs="+", metavar="N", help="tokens per step (1, 4) or thresholds (0.9); "
        "default: 1 and 0.9, on random weights 1"
    )  # fmt: skip
    what.add_argument("--batch-sizes", nargs="+", type=int, metavar="N", help="default: 1")
    what.add_argument("--gen-lengths", nargs="+", type=int, metavar="N", help="default: 96 or 128")
    what.add_argument(
        "--prompt-lengths", nargs="+", type=int, metavar="N", help="of random prompts; default: 128"
    )
    what.add_argument(
        "--prompts",
        help="questions (default on the bundled model, with answers; questions:hard is the other "
        "split), random ids, or a file with one prompt per line",
    )
    what.add_argument("--sequences", type=int, help="prompts of a run; default: the largest batch")
    what.add_argument(
        "--ragged", action="store_true", help="random prompts from half the length to all of it"
    )
    what.add_argument("--block-length", type=int, help="for all; default: what each policy takes")
    what.add_argument(
        "--no-early-stop", action="store_true", help="make every step, vanilla and stock too"
    )
    what.add_argument("--no-stock", action="store_true", help="without stock transformers")
    what.add_argument(
        "--vanilla-steps", type=int, metavar="N", help="on random weights: measure N forwards of "
        "vanilla and stock and calculate the others, which are all alike; the page says so"
    )  # fmt: skip
    what.add_argument("--questions", type=int, help="of the suite quality; default: 500")
    what.add_argument(
        "--small", action="store_true", help="a suite in tiny sizes, to try it; answers no target"
    )
    how = parser.add_argument_group("how")
    how.add_argument("--repeats", type=int, default=3, help="rounds (default: %(default)s)")
    how.add_argument("--threads", type=int, help="of torch; default: torch's own choice")
    how.add_argument("--device", help="cpu, cuda or cuda:N (default: cuda where it can be used)")
    how.add_argument("--dtype", help="float32, bfloat16 or float16 (default: see the docs)")
    how.add_argument("--seed", type=int, default=0, help="of prompts (default: %(default)s)")
    how.add_argument("--no-memory", action="store_true", help="do not measure the peak of each row")
    how.add_argument(
        "--profile",
        action="store_true",
        help="instead of comparing: where the time goes, by phase, operator and GEMM",
    )
    how.add_argument("--plan", action="store_true", help="list the rows and measure nothing")
    how.add_argument("--fresh", action="store_true", help="forget what was measured before")
    where = parser.add_argument_group("where it goes")
    where.add_argument("--out", type=Path, default=Path("build/bench"), help="default: %(default)s")
    where.add_argument(
        "--markdown", type=Path, metavar="FILE",
        help="also put the page into this file, between its lines <!-- bench NAME --> and <!-- end "
        "of bench NAME --> (NAME: the suite, else 'custom')",
    )  # fmt: skip
    where.add_argument("--json", action="store_true", help="print the results as JSON")


_MOST_THREADS = 4096
_OF_MATRIX = {
    "model", "policies", "commits", "batch_sizes", "gen_lengths", "prompt_lengths", "prompts",
    "sequences", "block_length",
}  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    _check(arguments)
    if arguments.threads is not None:
        import torch

        torch.set_num_threads(arguments.threads)
    from dlmcache_cuda.benchmark.session import Plan, Session, custom_plan, suite_plan
    from dlmcache_cuda.parallel import ProcessGroup, device_of_rank

    plans: list[Plan] = []
    if arguments.suite is None:
        plans.append(custom_plan(_matrix(arguments)))
    else:
        names = SUITE_NAMES if arguments.suite == "targets" else (arguments.suite,)
        plans += [suite_plan(name, _size(arguments)) for name in names]
    if arguments.plan:
        for plan in plans:
            print(f"{plan.title}: {len(plan.rows)} rows, {arguments.repeats} rounds")
            print("\n".join(f"  {row.workload.model}: {row}" for row in plan.rows))
        return 0
    pages: list[Any] = []
    with ProcessGroup() as group:
        session = Session(
            out=arguments.out,
            repeats=arguments.repeats,
            device=device_of_rank(group.ranks, arguments.device),
            dtype=arguments.dtype,
            memory=not arguments.no_memory,
            fresh=arguments.fresh,
            command=_command(arguments.words),
            group=group,
        )
        for plan in plans:
            page = session.profile(plan) if arguments.profile else session.measure(plan)
            if page is None:
                continue  # the first process writes
            pages.append(page.content)
            if not arguments.json:
                print(f"{page.markdown}\nwritten to {page.folder}", flush=True)
            if arguments.markdown is not None and not arguments.profile:
                from dlmcache_cuda.benchmark.tables import put_into

                put_into(arguments.markdown, plan.name, page.markdown)
    if not group.ranks.is_main:
        return 0
    if arguments.json:
        print(json.dumps(pages if len(pages) > 1 else pages[0], indent=1))
    return 0


def _check(arguments: argparse.Namespace) -> None:
    """Everything that needs no model."""
    for name in ("repeats", "sequences", "questions", "vanilla_steps", "threads", "block_length"):
        _positive(name, getattr(arguments, name))
    for name in ("batch_sizes", "gen_lengths", "prompt_lengths"):
        for value in getattr(arguments, name) or ():
            _positive(name, value)
    if not 0 <= arguments.seed < 2**63:
        raise ValueError(f"--seed must be in [0, 2^63), got {arguments.seed}")
    if arguments.threads is not None and arguments.threads > _MOST_THREADS:
        raise ValueError(f"--threads must be at most {_MOST_THREADS}, got {arguments.threads}")
    if arguments.suite is not None:
        given = [n for n in sorted(_OF_MATRIX) if getattr(arguments, n) is not None]
        if given:
            raise ValueError(
                f"a suite says itself what is measured: --suite {arguments.suite} does not go with "
                f"--{given[0].replace('_', '-')}"
            )
    for name in ("questions", "small"):
        if arguments.suite is None and getattr(arguments, name):
            raise ValueError(f"--{name} belongs to --suite")


def _positive(name: str, value: int | None) -> None:
    if value is not None and value < 1:
        raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {value}")


def _matrix(arguments: argparse.Namespace) -> Any:
    from dlmcache_cuda.benchmark.matrix import Matrix

    return Matrix(
        models=arguments.model or ("bundled",),
        policies=arguments.policies or ("all",),
        batch_sizes=arguments.batch_sizes or (1,),
        gen_lengths=arguments.gen_lengths,
        prompt_lengths=arguments.prompt_lengths,
        commits=arguments.commits,
        block_length=arguments.block_length,
        sequences=arguments.sequences,
        prompts=arguments.prompts,
        ragged=arguments.ragged,
        early_stop=not arguments.no_early_stop,
        stock=not arguments.no_stock,
        vanilla_steps=arguments.vanilla_steps,
        seed=arguments.seed,
    )


def _size(arguments: argparse.Namespace) -> Any:
    from dlmcache_cuda.benchmark.suites import Size

    return Size(arguments.questions or 500, arguments.vanilla_steps, arguments.small)


def _command(words: Sequence[str]) -> str:
    words = list(words)
    # Where results went says something of one machine and nothing of what was measured.
    for option in ("--out", "--markdown"):
        while option in words:
            place = words.index(option)
            del words[place : place + 2]
    words = [word for word in words if not word.startswith(("--out=", "--markdown="))]
    return shlex.join(["dlmcache", *words])
