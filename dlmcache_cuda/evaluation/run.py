"""Runs lm-eval on tasks and adds how fast the model decoded."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from dlmcache_cuda.evaluation.harness import DlmcacheLM
from dlmcache_cuda.evaluation.throughput import Throughput


def evaluate(
    lm: DlmcacheLM,
    tasks: Sequence[str],
    *,
    include_path: str | None = None,
    limit: int | float | None = None,
    **options: Any,
) -> dict[str, Any] | None:
    """Evaluates a model on tasks.

    Args:
        lm: the model.
        tasks: names of tasks or groups, patterns (``mmlu_*``), or paths of task files (``.yaml``).
        include_path: folder with task files of your own.
        limit: documents of each task, or a share of them below 1. Default: all.
        options: of ``lm_eval.simple_evaluate``: ``num_fewshot``, ``apply_chat_template``,
            ``gen_kwargs``, ``log_samples``, ...

    Returns:
        lm-eval's results with an entry ``throughput`` (:class:`Throughput`, of all processes); None
        on all processes but the first.

    Raises:
        ValueError: no such task, or less documents than processes.
    """
    if limit is not None and 1 <= limit < lm.world_size:
        raise ValueError(
            f"limit must be at least the number of processes ({lm.world_size}), got {limit}"
        )
    manager, names = _find(tasks, include_path)
    results = simple_evaluate(
        model=lm,
        tasks=names,
        task_manager=manager,
        limit=limit,
        batch_size=lm.batch_size,
        device=str(lm.device),
        **options,
    )
    parts = lm.group.gather(lm.throughput)
    if results is None or parts is None:
        return None
    results["config"]["model"] = "dlmcache"
    results["throughput"] = Throughput.of_processes(parts).to_dict()
    del results["config"]["throughput"]  # that of the first process
    return results


def _find(tasks: Sequence[str], include_path: str | None) -> tuple[TaskManager, list[str]]:
    """The manager that knows all tasks, and their names with patterns resolved."""
    if not tasks:
        raise ValueError("tasks is empty; name one task at least")
    missing: list[str] = []
    # Thousands of tasks come with lm-eval: they are read only where they are asked for.
    for defaults in (False, True):
        manager = TaskManager(include_path=include_path, include_defaults=defaults)
        names, missing = [], []
        for task in tasks:
            if task.endswith((".yaml", ".yml")):
                if not Path(task).is_file():
                    raise FileNotFoundError(f"tasks: there is no file {task}")
                found = [str(Path(task).absolute())]
            else:
                found = manager.match_tasks([task])
            names += found
            if not found:
                missing.append(task)
        if not missing:
            return manager, list(dict.fromkeys(names))
    where = f" nor in {include_path}" if include_path else "; --include-path adds a folder"
    raise ValueError(f"no task named {', '.join(missing)}: not among lm-eval's{where}")
