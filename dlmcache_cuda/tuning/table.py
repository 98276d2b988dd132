"""Tables of results: by rich on a terminal, else plain columns."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TextTable:
    """Cells as text; the first column is set to the left, the others to the right."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()

    def __str__(self) -> str:
        widths = [max(map(len, column)) for column in zip(self.columns, *self.rows, strict=True)]
        lines = [self.title, ""]
        for row in (self.columns, *self.rows):
            first = row[0].ljust(widths[0])
            rest = [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
            lines.append("  ".join([first, *rest]).rstrip())
        return "\n".join([*lines, *([""] if self.notes else []), *self.notes])

    def show(self) -> None:
        """Prints it to standard output."""
        try:
            from rich.box import SIMPLE_HEAD
            from rich.console import Console
            from rich.markup import escape
            from rich.table import Table
        except ModuleNotFoundError:
            print(self)
            return
        if not sys.stdout.isatty():
            print(self)
            return
        console = Console(highlight=False)
        table = Table(
            title=escape(self.title),
            title_justify="left",
            box=SIMPLE_HEAD,
            pad_edge=False,
            padding=(0, 1),
        )
        for number, column in enumerate(self.columns):
            table.add_column(escape(column), justify="right" if number else "left")
        for row in self.rows:
            table.add_row(*map(escape, row))
        console.print(table)
        for note in self.notes:
            console.print(note, markup=False)


def percent(share: float) -> str:
    """``0.9912`` as ``99.12 %``."""
    return f"{100 * share:.2f} %"
