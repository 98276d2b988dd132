"""The short table at the end: every part, its outcome and its main figures.

The standard library only: it is written even where the extension could not be built.
"""

from __future__ import annotations

import json
from pathlib import Path

BAD = ("failed", "time limit")


def write_report(out: Path) -> int:
    """Prints the table, writes ``summary.json``; 0: all passed, 1: something failed, 3: neither."""
    outcomes = {}
    for path in sorted(out.glob("*.status"), key=lambda path: path.stat().st_mtime):
        status, seconds = path.read_text().strip().rsplit(" ", 1)
        outcomes[path.stem] = {"status": status, "seconds": float(seconds), "headline": []}
    for name, outcome in outcomes.items():
        path = out / f"{name}.json"
        if path.exists():
            outcome["headline"] = json.loads(path.read_text())["headline"]
    (out / "summary.json").write_text(json.dumps({"schema": 1, "parts": outcomes}, indent=1) + "\n")
    print(table(outcomes))
    statuses = [outcome["status"] for outcome in outcomes.values()]
    if not statuses or any(status in BAD for status in statuses):
        return 1
    return 3 if "incomplete" in statuses else 0


def table(outcomes: dict[str, dict]) -> str:
    lines = [
        "| part | outcome | s | figure | value | floor | ratio |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, outcome in outcomes.items():
        head = f"| {name} | {outcome['status']} | {outcome['seconds']:.0f} "
        for line in outcome["headline"] or [{}]:
            floor, ratio = line.get("floor"), line.get("ratio")
            value = f"{line['value']:.4g} {line['unit']}" if line else ""
            lines.append(
                f"{head}| {line.get('what', '')} | {value} "
                f"| {'' if floor is None else f'{floor:.4g}'} "
                f"| {'' if ratio is None else f'{ratio:.2f}'} |"
            )
            head = "| | | "
    return "\n".join(lines)
