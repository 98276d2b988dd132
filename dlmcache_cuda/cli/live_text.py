"""Text that crystallises in the terminal: committed tokens plain, the draft dim."""

from __future__ import annotations

import sys
import time
from typing import Any

# Steps of a small model come faster than anyone reads, and drawing takes time from them.
SECONDS_PER_FRAME = 1 / 15


def show_answer(model: Any, prompt: Any, *, heading: str = "", **settings: Any) -> str:
    """Decodes one prompt, shows its text on standard output as it comes, and returns it.

    On a terminal the whole text is drawn again and again, drafts included. Elsewhere (a pipe, a
    terminal that cannot move its cursor, no rich) text is written once it is final, without escape
    codes.

    Args:
        model: from :func:`dlmcache_cuda.load`.
        prompt: as for :func:`dlmcache_cuda.decode`, one.
        heading: stands before the text, bold on a terminal.
        settings: of :func:`dlmcache_cuda.stream`.
    """
    import dlmcache_cuda

    console = _live_console()
    stream = dlmcache_cuda.stream(model, prompt, drafts=console is not None, **settings)
    if console is None:
        _write(stream, heading)
    else:
        _draw(stream, heading, console)
    return stream.output.text[0]


def _live_console() -> Any | None:
    """A rich console on standard output where it can redraw text, else None."""
    try:
        from rich.console import Console
    except ModuleNotFoundError:
        return None
    console = Console(highlight=False)
    return console if console.is_terminal and not console.is_dumb_terminal else None


def _write(stream: Any, heading: str) -> None:
    sys.stdout.write(heading)
    for event in stream:
        sys.stdout.write(event.new_text)
        sys.stdout.flush()
    print(flush=True)


def _draw(stream: Any, heading: str, console: Any) -> None:
    from rich.live import Live

    drawn = float("-inf")
    with Live(console=console, auto_refresh=False) as live:
        for event in stream:
            if event.finished is not None or time.monotonic() - drawn >= SECONDS_PER_FRAME:
                live.update(as_rich_text(event.spans, heading), refresh=True)
                drawn = time.monotonic()


def as_rich_text(spans: Any, heading: str = "") -> Any:
    """A rich ``Text``: drafts are dim."""
    from rich.text import Text

    pieces = [(span.text, "" if span.committed else "dim italic") for span in spans]
    return Text.assemble((heading, "bold"), *pieces)
