"""What a trace page is told, in compact form. ``web/unpack.js`` reads it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from dlmcache_cuda.report.packing import RowSets, pack_numbers
from dlmcache_cuda.report.record import DRIFTS

CERTAIN = 65535
"""Stands for a confidence of 1."""
EMBEDDED = "▦"
"""Stands for a row of the prompt that was given as an embedding: it has no token."""


def page_payload(record: Mapping[str, Any]) -> dict[str, Any]:
    """Plain values for the page, from a record that was checked.

    Tokens are numbers of ``pieces``, a text for each token that occurs. Row sets are numbers of
    ``row_sets``: ``rows`` has one for each step and layer, ``candidates`` one for each step.
    """
    trace = record["trace"]
    steps = trace["steps"]
    sets, tokens = RowSets(), _Tokens(trace["pieces"], trace["mask_token_id"])
    rows = [sets.add(ranges) for step in steps for ranges in step["rows"]]
    candidates = [sets.add(_as_ranges(step["candidates"])) for step in steps]
    predicted = [tokens.number(token) for step in steps for token in step["predicted"]]
    confidence = [_word(value) for step in steps for value in step["confidence"]]
    return {
        "model": trace["model"],
        "cache": trace["cache"],
        "settings": dict(trace["settings"]),
        "decoding": dict(trace["decoding"]),
        "layers": trace["n_layers"],
        "gamma": trace["gamma"],
        "signal": trace["signal"],
        "budgets": trace["budgets"],
        "stop_reason": record["stop_reason"],
        "forwards": record["forwards"],
        "rows_computed": record["rows_computed"],
        "rows_vanilla": record["rows_vanilla"],
        "visible": len(record["visible_ids"]) - sum(record["given"]),
        "given": [
            [position, tokens.number(token)]
            for position, token in enumerate(record["ids"], start=len(record["prompt_ids"]))
            if record["given"][position - len(record["prompt_ids"])]
        ],
        "prompt": [tokens.number(token) for token in record["prompt_ids"]],
        "length": len(record["prompt_ids"]) + len(record["ids"]),
        "commit_step": record["commit_step"],
        "confidence": [None if c is None else round(c, 6) for c in record["confidence"]],
        "steps": [_step(step, tokens) for step in steps],
        "row_sets": sets.packed(),
        "rows": pack_numbers(rows),
        "candidates": pack_numbers(candidates),
        "predicted": pack_numbers(predicted),
        "candidate_confidence": pack_numbers(confidence),
        "importance": _importance(steps),
        "mask": tokens.mask,
        "pieces": tokens.texts,
        "ids": tokens.ids,
    }


def _step(step: Mapping[str, Any], tokens: _Tokens) -> dict[str, Any]:
    short: dict[str, Any] = {
        "reason": step["reason"],
        "boundary": step["boundary"],
        "entered": step["entered"],
        "written": step["written"],
        "tokens": [tokens.number(token) for token in step["tokens"]],
    }
    if any(value is not None for value in step["similarity"]):
        short["similarity"] = [_rounded(value) for value in step["similarity"]]
    if any(drift is not None for drift in step["selection"]):
        short["selection"] = [
            None if drift is None else [_rounded(drift[name]) for name in DRIFTS]
            for drift in step["selection"]
        ]
    return short


def _importance(steps: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """For each step and position a byte, 255 for the most important one of the step."""
    if any(step.get("importance") is None for step in steps):
        return None
    bytes_of_steps: list[int] = []
    for step in steps:
        values = [value or 0.0 for value in step["importance"]]
        most = max(values, default=0.0)
        bytes_of_steps += [round(255 * max(v, 0.0) / most) if most > 0 else 0 for v in values]
    return pack_numbers(bytes_of_steps)


class _Tokens:
    """The tokens that occur, numbered in the order in which they came."""

    def __init__(self, pieces: Mapping[str, str], mask_id: int) -> None:
        self._pieces = pieces
        self._numbers: dict[int, int] = {}
        self.texts: list[str] = []
        self.ids: list[int] = []
        self.mask = self.number(mask_id)

    def number(self, token: int) -> int:
        if token not in self._numbers:
            self._numbers[token] = len(self.ids)
            self.ids.append(token)
            unknown = EMBEDDED if token < 0 else f"⟨{token}⟩"
            self.texts.append(self._pieces.get(str(token), unknown))
        return self._numbers[token]


def _as_ranges(positions: Sequence[int]) -> list[list[int]]:
    ranges: list[list[int]] = []
    for position in positions:
        if ranges and ranges[-1][1] == position:
            ranges[-1][1] += 1
        else:
            ranges.append([position, position + 1])
    return ranges


def _word(confidence: float | None) -> int:
    return round(CERTAIN * min(max(confidence or 0.0, 0.0), 1.0))


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
