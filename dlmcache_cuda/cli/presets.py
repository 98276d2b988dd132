"""Show what the authors of each cache ran on a model: settings, lengths, sources.

Without a model: which models and tasks there are. Settings that equal a cache's defaults are left
out.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", help="a published checkpoint, e.g. LLaDA-8B-Instruct")
    parser.add_argument("--task", help="a benchmark, e.g. gsm8k (default: what fits any)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    if arguments.model is None:
        if arguments.task is not None:
            raise ValueError("--task needs a model")
        rows = _models()
        title, columns = "Models with published settings", ("model", "caches", "tasks")
    else:
        rows = _presets(arguments.model, arguments.task)
        title = f"{arguments.model}, {arguments.task or 'any task'}"
        columns = ("cache", "settings", "decoding", "shots", "source")
    if arguments.json:
        print(json.dumps(rows, indent=1))
        return 0
    _show(title, columns, [[_text(row[column]) for column in columns] for row in rows])
    return 0


def _models() -> list[dict[str, Any]]:
    from dlmcache_cuda.policies.presets import MODELS, preset_caches, preset_tasks

    return [
        {"model": model, "caches": preset_caches(model), "tasks": preset_tasks(model)}
        for model in MODELS
    ]


def _presets(model: str, task: str | None) -> list[dict[str, Any]]:
    import dlmcache_cuda

    rows = []
    for cache, preset in dlmcache_cuda.presets(model, task).items():
        settings = dataclasses.asdict(preset.config)
        defaults = dataclasses.asdict(type(preset.config)())
        rows.append(
            {
                "cache": cache,
                "settings": {k: v for k, v in settings.items() if v != defaults[k]},
                "decoding": preset.decode_arguments(),
                "shots": preset.shots,
                "source": preset.source,
            }
        )
    return rows


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        return " ".join(f"{key}={_text(entry)}" for key, entry in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on a terminal; otherwise, or without rich, one line per row."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ModuleNotFoundError:
        terminal = False
    else:
        terminal = sys.stdout.isatty()
    if not terminal:
        widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
        for row in (columns, *rows):
            cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
            print("  ".join(cells).rstrip())
        return
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2))
    for column in columns:
        table.add_column(column, no_wrap=column in ("cache", "model"))
    for row in rows:
        table.add_row(*row)
    Console().print(table)
