"""Progress on a terminal. Needs rich, extra ``bench``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class RichReporter:
    """A bar for the whole run, with what is measured now; silent where there is no terminal.

    Raises:
        RuntimeError: there is no rich.
    """

    def __init__(self, total: int) -> None:
        try:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                Progress,
                TextColumn,
                TimeElapsedColumn,
            )
        except ModuleNotFoundError as error:
            raise RuntimeError("bench needs rich: pip install 'dlmcache_cuda[bench]'") from error
        console = Console(stderr=True)
        self._progress: Any = Progress(
            MofNCompleteColumn(),
            BarColumn(20),
            TimeElapsedColumn(),
            TextColumn("{task.fields[forwards]:>6} forwards  {task.description}"),
            console=console,
            transient=True,
            refresh_per_second=2,  # drawing takes time from what is measured
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("", total=total, forwards=0)

    def __enter__(self) -> RichReporter:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    @contextmanager
    def row(self, text: str) -> Iterator[Callable[[], None]]:
        """While a row is measured; what is given is called after every forward."""
        forwards = 0
        self._progress.update(self._task, description=text, forwards=0)

        def advance() -> None:
            nonlocal forwards
            forwards += 1
            if forwards % 64 == 0:
                self._progress.update(self._task, forwards=forwards)

        yield advance

    def done(self) -> None:
        """A measurement has been kept."""
        self._progress.advance(self._task)
