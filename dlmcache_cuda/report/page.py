"""trace_page(): a traced decoding as one HTML page."""

from __future__ import annotations

import html
import json
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from dlmcache_cuda.report.payload import page_payload
from dlmcache_cuda.report.record import sequence_record

if TYPE_CHECKING:
    from dlmcache_cuda.decoding import DecodedSequence, DecodeOutput

# In this order: later ones use earlier ones.
SCRIPTS = (
    "unpack.js", "words.js", "theme.js", "tooltip.js", "summary.js", "text.js", "canvas.js",
    "timeline.js", "heatmap.js", "drift.js", "player.js",
)  # fmt: skip


def trace_page(
    output: DecodeOutput | DecodedSequence | dict[str, Any], *, sequence: int = 0
) -> str:
    """One self-contained HTML page: how the text came about, and what the cache saved.

    It loads nothing, from anywhere, and shows text of prompts and models as text only.

    >>> out = dlmcache_cuda.decode(model, prompt, cache="elastic", trace=True)
    >>> Path("trace.html").write_text(dlmcache_cuda.trace_page(out), encoding="utf-8")

    Args:
        output: what ``decode(trace=True)`` returned, one of its sequences, or the ``to_dict()`` of
            either, read from JSON perhaps.
        sequence: which sequence of an output. Default: the first.

    Returns:
        The page, to be written as UTF-8.

    Raises:
        TypeError: ``output`` or ``sequence`` is of another type.
        ValueError: there is no such sequence, or no trace, or the trace does not fit together.
    """
    record = sequence_record(output, sequence)
    payload = json.dumps(page_payload(record), allow_nan=False, separators=(",", ":"))
    # Nothing in a JSON script may look like markup to the HTML parser.
    payload = payload.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    title = f"{record['trace']['cache']} on {record['trace']['model']}: decoding trace"
    parts = {
        # Halves of surrogate pairs, which JSON may bring, have no UTF-8.
        "TITLE": html.escape(title.encode("utf-8", "replace").decode("utf-8")),
        "STYLE": _web("page.css"),
        "PAYLOAD": payload,
        "SCRIPT": "".join(_web(name) for name in SCRIPTS),
    }
    # Cut once, so that nothing in a part is taken for a place of another.
    pieces = _web("page.html").split("%%")
    return "".join(parts[piece] if n % 2 else piece for n, piece in enumerate(pieces))


@cache
def _web(name: str) -> str:
    return files("dlmcache_cuda.report").joinpath("web", name).read_text(encoding="utf-8")
