"""Results as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dlmcache_cuda.benchmark.fixed_rate import STATED
from dlmcache_cuda.benchmark.models import ModelSpec
from dlmcache_cuda.benchmark.results import Result, Spread
from dlmcache_cuda.benchmark.row import STOCK
from dlmcache_cuda.decoding.memory import readable

COLUMNS = (
    "method", "blocks", "commits", "visible tokens/s", "speed-up", "at same commits",
    "tokens/forward", "forwards", "ms/forward", "CPU ms/forward", "rows", "in refreshes",
    "peak (predicted)", "right", "same tokens",
)  # fmt: skip
LEGEND = (
    "Medians of interleaved repetitions (smallest-largest). speed-up: of visible tokens per second "
    "over vanilla with one token per step; at same commits: over vanilla that commits by the same "
    "rule. rows: layer rows computed, against vanilla with the same commits. in refreshes: share "
    "of the time of all forwards that went into forwards which recompute cached rows. right: "
    "answers equal to the worked one. same tokens: as vanilla with the same commits and blocks."
)


def header(machine: dict[str, Any]) -> str:
    """What was measured on what, one line each."""
    names = (
        "device",
        "processes",
        "cores",
        "threads",
        "torch",
        "transformers",
        "python",
        "commit",
        "date",
    )
    lines = [f"- {name}: {machine[name]}" for name in names if machine.get(name) is not None]
    lines.append(f"- copy bandwidth: {machine['copy_gb_per_s']} GB/s")
    build = machine["build"]
    lines.append(f"- operators: {build.get('cpu_arch')}; dtype {machine['dtype']}")
    lines.append(f"- command: `{machine['command']}`")
    return "\n".join(lines)


def report(
    title: str, machine: dict[str, Any], results: Sequence[Result], parts: Sequence[str] = ()
) -> str:
    """A whole page: header, ``parts`` as they are, a table per workload."""
    texts = [f"## {title}", header(machine), *parts]
    workloads = list(dict.fromkeys(result.row.workload for result in results))
    if any(ModelSpec.parse(workload.model).is_random for workload in workloads):
        texts.append(STATED)
    for workload in workloads:
        mine = [result for result in results if result.row.workload == workload]
        texts.append(f"### {workload.label}\n\n{table(mine)}")
        texts += [note for note in (_continued_note(mine),) if note]
    if any(result.timed for result in results):
        texts.append(LEGEND)
    return "\n\n".join(texts) + "\n"


def table(results: Sequence[Result]) -> str:
    """One line per result; columns without any entry are left out."""
    lines = [_cells(result) for result in results]
    used = [n for n in range(len(COLUMNS)) if any(line[n] for line in lines)]
    rows = [[COLUMNS[n] for n in used], ["---"] * len(used)]
    rows += [[line[n] for n in used] for line in lines]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cells(result: Result) -> list[str]:
    row = result.row
    start = [row.name, row.block, row.commit]
    peak = _peak(result)
    if not result.timed:
        said = "" if result.failed is None else f"failed: {result.failed}"
        return [*start, said, *[""] * 8, peak, "", ""]
    same = {None: "", True: "yes", False: "no"}[result.same_tokens]
    right = "" if result.right is None else f"{result.right}/{row.workload.sequences}"
    return [
        *start,
        spread(result.tokens_per_second),
        spread(result.speed_up, "x"),
        "" if row.commits == 1 else spread(result.same_commits, "x"),
        number(result.tokens_per_forward),
        f"{result.forwards}",
        spread(result.forward_seconds, scale=1e3),
        number(1e3 * result.forward_cpu_seconds.median),
        "" if result.rows is None else f"{100 * result.rows:.3g} %",
        "" if result.refresh_share is None else f"{100 * result.refresh_share:.0f} %",
        peak,
        right,
        same if row.engine == STOCK or not row.is_vanilla else "",
    ]


def _peak(result: Result) -> str:
    if result.peak_bytes is None:
        return "" if result.predicted_bytes is None else f"({readable(result.predicted_bytes)})"
    predicted = result.predicted_bytes
    return readable(result.peak_bytes) + ("" if predicted is None else f" ({readable(predicted)})")


def _continued_note(results: Sequence[Result]) -> str:
    lines = []
    for result in results:
        if result.measured_forwards is not None:
            step, total = result.forward_seconds.median, result.seconds.median
            lines.append(
                f"{result.row.name}: {result.measured_forwards} of {result.forwards} forwards were "
                f"measured; {result.forwards} x {1e3 * step:.1f} ms = {total:.1f} s, since all of "
                "them compute the same rows."
            )
    return "\n".join(lines)


def spread(value: Spread | None, unit: str = "", scale: float = 1.0) -> str:
    """``12.1x (11.8-12.4)``"""
    if value is None:
        return ""
    median, low, high = (number(scale * part) for part in (value.median, value.low, value.high))
    return f"{median}{unit}" if low == high else f"{median}{unit} ({low}-{high})"


def number(value: float) -> str:
    """Three digits, and no exponent."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


def put_into(path: Path, name: str, text: str) -> None:
    """Puts a page between the marks ``<!-- bench NAME -->`` and ``<!-- end of bench NAME -->`` of a
    file; a file that is not there becomes the page.

    Raises:
        ValueError: the file is there, but has no such marks.
    """
    begin, end = f"<!-- bench {name} -->", f"<!-- end of bench {name} -->"
    if not path.exists():
        path.write_text(f"{begin}\n\n{text}\n{end}\n", encoding="utf-8")
        return
    before, found, rest = path.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(
            f"--markdown: {path} has no lines {begin} and {end} to put the tables between"
        )
    path.write_text(f"{before}{begin}\n\n{text}\n{end}{after}", encoding="utf-8")
