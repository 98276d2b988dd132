"""Answers of the bundled model under every cache: ``python -m benchmarks.accuracy``.

Decodes held-out questions of both splits with every cache, one token per step and with a
threshold, and counts exact answers (every word of the worked answer), right final words, and
responses that equal vanilla's. Results are kept after every setting; run it again to go on.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.progress import Progress

import dlmcache_cuda
from benchmarks.decode import BLOCK_LENGTH, THRESHOLD
from benchmarks.machine import describe
from dlmcache_cuda.assets.questions import SPLITS, check_answer, check_final, make_questions

# Vanilla over the whole response as one block comes first: the others are compared with it.
SETTINGS = [
    {"cache": "none", "block_length": None, "threshold": None},
    {"cache": "none", "block_length": None, "threshold": THRESHOLD},
    {"cache": "prefix", "block_length": BLOCK_LENGTH, "threshold": None},
    {"cache": "dual", "block_length": BLOCK_LENGTH, "threshold": None},
    {"cache": "prefix", "block_length": BLOCK_LENGTH, "threshold": THRESHOLD},
    {"cache": "dual", "block_length": BLOCK_LENGTH, "threshold": THRESHOLD},
]


def key_of(split: str, setting: dict) -> str:
    block = "one block" if setting["block_length"] is None else f"blocks of {BLOCK_LENGTH}"
    commit = "1 token/step" if setting["threshold"] is None else f"threshold {THRESHOLD}"
    return f"{split}: {setting['cache']}, {block}, {commit}"


def measure(model, split: str, setting: dict, count: int, seed: int, vanilla, advance) -> dict:
    """One line of the table, and every response."""
    asked = make_questions(count, seed, split)
    chats = [[{"role": "user", "content": question.prompt}] for question in asked]

    def on_step(event) -> None:
        for update in event.updates:
            if update.stop_reason is not None:
                advance()

    settings = {**setting, "gen_length": SPLITS[split].gen_length, "callback": on_step}
    out = dlmcache_cuda.decode(model, chats, **settings)
    stats = out.stats
    return {
        "exact": sum(map(check_answer, asked, out.text)),
        "final": sum(map(check_final, asked, out.text)),
        "equal_to_vanilla": sum(map(str.__eq__, out.text, vanilla or out.text)),
        "questions": count,
        "tokens_per_forward": stats.tokens_per_forward,
        "forwards_per_sequence": stats.sequence_forwards / count,
        "rows_computed": stats.rows_computed,
        "responses": out.text,
    }


def table(results: dict[str, dict]) -> str:
    lines = [
        "| setting | questions | exact | final word | equal to vanilla | forwards | rows |",
        "|---|---|---|---|---|---|---|",
    ]
    for key, result in results.items():
        vanilla = results[key_of(key.split(":")[0], SETTINGS[0])]
        count = result["questions"]
        rows = result["rows_computed"] / vanilla["rows_computed"]
        shares = (result["exact"], result["final"], result["equal_to_vanilla"])
        cells = [key, str(count), *(f"{100 * share / count:.1f} %" for share in shares)]
        cells += [f"{result['forwards_per_sequence']:.1f}", f"{100 * rows:.1f} %"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.accuracy", description=__doc__)
    parser.add_argument("--questions", type=int, default=500, help="of the held-out split")
    parser.add_argument("--hard-questions", type=int, default=150, help="of the hard split")
    parser.add_argument("--seed", type=int, default=77)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("build/bench/accuracy.json"))
    arguments = parser.parse_args()
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    counts = {"heldout": arguments.questions, "hard": arguments.hard_questions}
    partial = arguments.out.with_suffix(f".{arguments.questions}.{arguments.seed}.partial.json")
    results = json.loads(partial.read_text()) if partial.exists() else {}
    model = dlmcache_cuda.load(device=arguments.device)
    with Progress() as progress:
        for split in SPLITS:
            for setting in SETTINGS:
                key = key_of(split, setting)
                task = progress.add_task(key, total=counts[split])
                if key in results:
                    progress.update(task, completed=counts[split])
                    continue
                vanilla = results.get(key_of(split, SETTINGS[0]), {}).get("responses")
                results[key] = measure(
                    model,
                    split,
                    setting,
                    counts[split],
                    arguments.seed,
                    vanilla,
                    lambda task=task: progress.advance(task),
                )
                partial.write_text(json.dumps(results))
    figures = {
        key: {name: value for name, value in result.items() if name != "responses"}
        for key, result in results.items()
    }
    machine = {**describe(arguments.device), "seed": arguments.seed}
    arguments.out.write_text(json.dumps({"machine": machine, "results": figures}, indent=1) + "\n")
    partial.unlink()
    print(f"\n{table(figures)}\n\nwritten to {arguments.out}")


if __name__ == "__main__":
    main()
