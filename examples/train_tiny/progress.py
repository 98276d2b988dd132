"""Progress of a training run: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Report:
    """What is shown and logged about a run at one moment."""

    progress: float
    step: int
    stage: int
    rate: float
    seconds: float
    loss: float
    random_masks: float
    cut_masks: float
    first_accuracy: float
    gather: float
    match: float

    def text(self) -> str:
        """One line without the times."""
        return (
            f"step {self.step} stage {self.stage} loss {self.loss:.3f} "
            f"(random {self.random_masks:.3f} cut {self.cut_masks:.3f} "
            f"gather {self.gather:.3f} match {self.match:.3f}) first {self.first_accuracy:.3f}"
        )

    def remaining(self) -> float:
        """Seconds to go at the pace so far."""
        return self.seconds * (1 - self.progress) / max(self.progress, 1e-6)


def clock(seconds: float) -> str:
    """Minutes and seconds."""
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class PlainDisplay:
    """One line per report."""

    live = False

    def __enter__(self) -> PlainDisplay:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def show(self, report: Report) -> None:
        """Print the report."""
        print(
            f"{report.progress:6.1%} {report.text()} "
            f"elapsed {clock(report.seconds)} eta {clock(report.remaining())}",
            flush=True,
        )


class BarDisplay:
    """A rich progress bar."""

    live = True

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, TextColumn

        self.bar = Progress(
            TextColumn("{task.percentage:>5.1f} %"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[times]}"),
            TextColumn("{task.description}"),
        )
        self.task = self.bar.add_task("starting", total=1.0, times="")

    def __enter__(self) -> BarDisplay:
        self.bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bar.stop()

    def show(self, report: Report) -> None:
        """Move the bar."""
        self.bar.update(
            self.task,
            completed=report.progress,
            description=report.text(),
            times=f"{clock(report.seconds)} < {clock(report.remaining())}",
        )


def open_display() -> PlainDisplay | BarDisplay:
    """The bar on a terminal, else plain lines."""
    return BarDisplay() if sys.stdout.isatty() else PlainDisplay()
