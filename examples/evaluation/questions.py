"""Questions for the bundled model as documents of lm-eval tasks; as a program: as JSON lines."""

from __future__ import annotations

import argparse
import json
from typing import Any

from dlmcache_cuda.assets.questions import ENTITIES, make_questions


def documents(count: int, seed: int) -> list[dict[str, Any]]:
    """Questions with their worked answer, its last word, and three answers to choose from."""
    rows = []
    for number, question in enumerate(make_questions(count, seed)):
        others = [word for word in ENTITIES if word != question.final]
        finals = [others[number % len(others)], others[(number + 7) % len(others)]]
        place = number % 3
        finals.insert(place, question.final)
        worked = question.answer.removesuffix(question.final)
        rows.append(
            {
                "question": question.prompt,
                "final": question.final,
                # With a chat template lm-eval puts nothing between question and choice.
                "choices": [f" {worked}{final}" for final in finals],
                "right": place,
            }
        )
    return rows


def load(count: int = 20, seed: int = 2026, **_: Any) -> dict[str, Any]:
    """What ``custom_dataset`` of a task file calls."""
    import datasets

    return {"test": datasets.Dataset.from_list(documents(count, seed))}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--seed", type=int, default=2026)
    arguments = parser.parse_args()
    for row in documents(arguments.count, arguments.seed):
        print(json.dumps(row))
