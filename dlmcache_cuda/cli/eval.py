"""Evaluate a model on tasks of lm-eval: scores, tokens per second, tokens per forward.

Tasks are named as in lm-eval; --include-path adds a folder of your own task files. A task's
max_gen_toks is the length of the canvas where --gen-length is not given. Under torchrun or
accelerate every process takes a share of the documents and the GPU of its LOCAL_RANK.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

from dlmcache_cuda.cli.options import add_decode_options, add_model_options, decode_options


class _OfTask:
    """The default of options that tasks have a say in; help shows it as text."""

    def __str__(self) -> str:
        return "what the task says"


OF_TASK = _OfTask()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tasks", required=True, help="names, patterns or .yaml files, separated by commas"
    )
    parser.add_argument("--include-path", help="folder with task files of your own")
    parser.add_argument("--limit", type=float, help="documents of a task, or a share below 1")
    parser.add_argument("--num-fewshot", type=int, help="examples before a question")
    parser.add_argument("--batch-size", type=int, help="sequences in flight (default: 16)")
    parser.add_argument(
        "--apply-chat-template", action="store_true", help="ask as in a chat (Instruct models)"
    )
    parser.add_argument("--system-instruction", help="the system's message of every chat")
    parser.add_argument(
        "--gen-kwargs",
        default="",
        metavar="NAME=VALUE,...",
        help="what tasks say about generation, overridden: max_gen_toks=64,threshold=0.8",
    )
    parser.add_argument("--output", type=Path, help="write the results to this JSON file")
    parser.add_argument(
        "--samples", type=Path, help="write every question and answer to this JSONL file"
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    parser.add_argument(
        "--confirm-run-unsafe-code",
        action="store_true",
        help="allow tasks that run what the model writes (code)",
    )
    group = parser.add_argument_group("likelihoods (LLaDA's Monte-Carlo estimate)")
    group.add_argument("--mc-num", type=int, default=128, help="draws (default: %(default)s)")
    group.add_argument(
        "--mc-batch-size", type=int, help="of a forward (default: the largest divisor up to 32)"
    )
    group.add_argument(
        "--no-check-greedy",
        action="store_true",
        help="do not find out whether an answer is the greedy one: faster, where no metric asks",
    )
    add_decode_options(parser, gen_length=256)
    add_model_options(parser)
    parser.set_defaults(gen_length=OF_TASK, temperature=OF_TASK)


def run(arguments: argparse.Namespace) -> int:
    try:
        from dlmcache_cuda import evaluation
        from dlmcache_cuda.evaluation.settings import check
    except ImportError as error:
        raise RuntimeError(str(error)) from error
    from lm_eval.utils import make_table, simple_parse_args_string

    from dlmcache_cuda.parallel import ProcessGroup

    gen_kwargs = simple_parse_args_string(arguments.gen_kwargs)
    check(gen_kwargs)
    tasks = [task.strip() for task in arguments.tasks.split(",") if task.strip()]
    if arguments.limit is not None and not 0 < arguments.limit < math.inf:
        raise ValueError(f"--limit must be a number greater than 0, got {arguments.limit:g}")
    if arguments.num_fewshot is not None and arguments.num_fewshot < 0:
        raise ValueError(f"--num-fewshot must be at least 0, got {arguments.num_fewshot}")
    if arguments.include_path is not None and not Path(arguments.include_path).is_dir():
        raise FileNotFoundError(f"--include-path: {arguments.include_path} is no folder")
    for path in (arguments.output, arguments.samples):
        if path is not None and not path.absolute().parent.is_dir():
            raise FileNotFoundError(f"{path}: its folder does not exist")
    with ProcessGroup() as group:
        lm = evaluation.DlmcacheLM(
            arguments.model,
            device=arguments.device,
            dtype=arguments.dtype,
            weights=arguments.weights,
            batch_size=arguments.batch_size,
            mc_num=arguments.mc_num,
            mc_batch_size=arguments.mc_batch_size,
            is_check_greedy=not arguments.no_check_greedy,
            group=group,
            **{
                name: value
                for name, value in decode_options(arguments).items()
                if value is not None and value is not OF_TASK
            },
        )
        results = evaluation.evaluate(
            lm,
            tasks,
            include_path=arguments.include_path,
            limit=arguments.limit,
            num_fewshot=arguments.num_fewshot,
            apply_chat_template=arguments.apply_chat_template,
            system_instruction=arguments.system_instruction,
            gen_kwargs=gen_kwargs or None,
            log_samples=arguments.samples is not None,
            confirm_run_unsafe_code=arguments.confirm_run_unsafe_code,
        )
    if results is None:
        return 0  # the first process writes
    samples = results.pop("samples", {})
    results["config"]["model_args"] = _described(lm)
    if arguments.samples is not None:
        lines = [
            _dumped({"task": task} | sample) for task, rows in samples.items() for sample in rows
        ]
        _write(arguments.samples, "\n".join(lines) + "\n")
    if arguments.output is not None:
        _write(arguments.output, _dumped(results, indent=1) + "\n")
    if arguments.json:
        print(_dumped(results, indent=1))
        return 0
    print(make_table(results))
    speed = results["throughput"]
    if speed["sequences"]:
        print(
            f"{speed['sequences']} answers, {speed['tokens_per_second']:.1f} tokens/s, "
            f"{speed['tokens_per_forward']:.2f} tokens per forward, "
            f"{100 * speed['rows_relative']:.1f} % of vanilla's rows"
        )
    if speed["truncated_prompts"]:
        print(f"{speed['truncated_prompts']} prompts were cut to fit", file=sys.stderr)
    return 0


def _described(lm: Any) -> dict[str, Any]:
    return {
        "pretrained": lm.model.name,
        "gen_length": lm.settings.gen_length,
        "cache": str(lm.settings.cache),
        **lm.settings.decode,
        **lm.likelihood,
        "is_check_greedy": lm.is_check_greedy,
    }


def _dumped(value: Any, indent: int | None = None) -> str:
    from lm_eval.utils import handle_non_serializable

    return json.dumps(value, indent=indent, ensure_ascii=False, default=handle_non_serializable)


def _write(path: Path, text: str) -> None:
    """All of it or nothing."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)
