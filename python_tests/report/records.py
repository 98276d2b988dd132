"""Records of traces made by hand, in the form of ``DecodedSequence.to_dict()``."""

from __future__ import annotations

import random
from typing import Any


def ranges_of(positions: list[int]) -> list[list[int]]:
    ranges: list[list[int]] = []
    for position in positions:
        if ranges and ranges[-1][1] == position:
            ranges[-1][1] += 1
        else:
            ranges.append([position, position + 1])
    return ranges


def synthetic_record(
    *, layers: int, prompt: int, generated: int, steps: int, vocabulary: int = 126_000
) -> dict[str, Any]:
    """Every layer of every step computes a quarter of the generated rows of its own choice: the
    hardest case for packing."""
    draw = random.Random(0)
    length = prompt + generated
    left = list(range(prompt, length))
    order = draw.sample(left, len(left))
    commit_step, per_step, recorded = [-1] * generated, generated / steps, []
    for step in range(steps):
        candidates = sorted(order[int(step * per_step) :])
        written = sorted(order[int(step * per_step) : int((step + 1) * per_step)])
        for position in written:
            commit_step[position - prompt] = step
        rows = [
            ranges_of(sorted(draw.sample(left, generated // 4))) if step else [[0, length]]
            for _ in range(layers)
        ]
        drift = {"highest": 1.25, "least_computed": 0.0123, "highest_reused": 0.0122}
        recorded.append(
            {
                "rows": rows,
                "refresh": step == 0,
                "boundary": None,
                "similarity": [draw.random() if step else None for _ in range(layers)],
                "reason": None if step else "start",
                "entered": [0 if step == 0 else prompt, length],
                "selection": [dict(drift) if step else None for _ in range(layers)],
                "candidates": candidates,
                "predicted": [draw.randrange(vocabulary) for _ in candidates],
                "confidence": [draw.random() for _ in candidates],
                "written": written,
                "tokens": [draw.randrange(vocabulary) for _ in written],
            }
        )
    used = {token for step in recorded for token in step["predicted"] + step["tokens"]}
    ids = [0] * generated
    for step in recorded:
        for position, token in zip(step["written"], step["tokens"], strict=True):
            ids[position - prompt] = token
    return {
        "prompt_ids": [7] * prompt,
        "ids": ids,
        "given": [False] * generated,
        "visible_ids": ids,
        "commit_step": commit_step,
        "confidence": [draw.random() for _ in ids],
        "forwards": steps,
        "rows_computed": layers * steps * generated // 4,
        "rows_vanilla": layers * steps * length,
        "refreshes": 1,
        "stop_reason": "length",
        "trace": {
            "version": 1,
            "model": "a model",
            "cache": "composed",
            "settings": {"gamma": 0.9, "layer_ratios": None},
            "decoding": {"block_length": generated, "gen_length": generated},
            "n_layers": layers,
            "mask_token_id": 126336,
            "gamma": 0.9,
            "signal": "proxy",
            "budgets": [generated // 4] * layers,
            "pieces": {str(token): f" word{token}" for token in used | {7}},
            "steps": recorded,
        },
    }
