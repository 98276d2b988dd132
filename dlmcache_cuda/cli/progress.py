"""A progress bar on the terminal, where rich is installed and somebody looks."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator

Report = Callable[[str, int, int], None]


@contextlib.contextmanager
def progress_bar(unit: str) -> Iterator[Report | None]:
    """Gives a function that shows what is being done, how much is done and how much there is.

    On standard error; None where that is no terminal, or without rich.
    """
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
    except ModuleNotFoundError:
        yield None
        return
    if not sys.stderr.isatty():
        yield None
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f} " + unit),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=1, visible=False)

        def report(what: str, done: int, total: int) -> None:
            progress.update(task, description=what[:60], completed=done, total=total, visible=True)

        yield report
