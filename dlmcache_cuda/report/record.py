"""Reads the record of a traced decoding, also one that was saved, and refuses what is none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

VERSION = 1
REASONS = (None, "start", "schedule", "drift")


def sequence_record(source: Any, sequence: int) -> dict[str, Any]:
    """The record of one sequence as plain values.

    Args:
        source: a ``DecodeOutput`` or ``DecodedSequence``, or what their ``to_dict`` gave.
        sequence: which one of an output's.

    Raises:
        TypeError: ``source`` is something else.
        ValueError: it has no trace, or its trace does not fit together; the message names where.
    """
    record = source.to_dict() if hasattr(source, "to_dict") else source
    if not isinstance(record, Mapping):
        raise TypeError(
            "trace_page needs a DecodeOutput, a DecodedSequence or the to_dict() of one, "
            f"got {type(source).__name__}"
        )
    if isinstance(sequence, bool) or not isinstance(sequence, int):
        raise TypeError(f"sequence must be an integer >= 0, got {sequence!r}")
    sequences = record.get("sequences", [record])
    if not isinstance(sequences, list):
        raise ValueError(f"sequences must be a list, got {type(sequences).__name__}")
    if not 0 <= sequence < len(sequences):
        raise ValueError(
            f"sequence must be in [0, {len(sequences)}), the output's sequences, got {sequence}"
        )
    found = sequences[sequence]
    if not isinstance(found, Mapping) or found.get("trace") is None:
        raise ValueError("the output has no trace: decode with trace=True")
    _check(found)
    return dict(found)


def _check(record: Mapping[str, Any]) -> None:
    trace = record["trace"]
    if not isinstance(trace, Mapping) or trace.get("version") != VERSION:
        version = trace.get("version") if isinstance(trace, Mapping) else None
        raise ValueError(f"trace.version must be {VERSION}, got {version!r}")
    prompt = _integers("prompt_ids", record.get("prompt_ids"), -1, 2**31)
    ids = _integers("ids", record.get("ids"), 0, 2**31)
    visible = _integers("visible_ids", record.get("visible_ids"), 0, 2**31)
    given = _list("given", record.get("given"), len(ids))
    if not all(isinstance(flag, bool) for flag in given):
        raise ValueError(f"given must hold true and false, got {given}")
    if len(visible) > len(ids):
        raise ValueError(f"visible_ids must be at most {len(ids)} long, got {len(visible)}")
    _integers("commit_step", record.get("commit_step"), -1, 2**31, len(ids))
    _numbers("confidence", record.get("confidence"), len(ids))
    for name in ("forwards", "rows_computed", "rows_vanilla", "refreshes"):
        _integers(name, [record.get(name)], 0, 2**62)
    _integers("trace.mask_token_id", [trace.get("mask_token_id")], 0, 2**31)
    (layers,) = _integers("trace.n_layers", [trace.get("n_layers")], 1, 2**16)
    for name in ("model", "cache"):
        if not isinstance(trace.get(name), str):
            raise ValueError(f"trace.{name} must be a text, got {trace.get(name)!r}")
    for name in ("settings", "decoding", "pieces"):
        if not isinstance(trace.get(name), Mapping):
            raise ValueError(f"trace.{name} must be an object, got {trace.get(name)!r}")
    for token, text in trace["pieces"].items():
        if not token.isdecimal() or not isinstance(text, str):
            raise ValueError(f"trace.pieces must be texts by token id, got {token!r}: {text!r}")
    _numbers("trace.gamma", [trace.get("gamma")])
    if trace.get("budgets") is not None:
        _integers("trace.budgets", trace["budgets"], 0, 2**31, layers)
    steps = trace.get("steps")
    if not isinstance(steps, list) or len(steps) != record["forwards"] or not steps:
        raise ValueError(f"trace.steps must be a list of {record['forwards']} steps (forwards)")
    for number, step in enumerate(steps):
        _check_step(f"trace.steps[{number}]", step, layers, len(prompt) + len(ids))


def _check_step(where: str, step: Any, layers: int, length: int) -> None:
    if not isinstance(step, Mapping):
        raise ValueError(f"{where} must be an object, got {step!r}")
    _list(f"{where}.rows", step.get("rows"), layers)
    for layer, ranges in enumerate(step["rows"]):
        _ranges(f"{where}.rows[{layer}]", ranges, length)
    if step.get("reason") not in REASONS:
        raise ValueError(f"{where}.reason must be one of {REASONS}, got {step.get('reason')!r}")
    if step.get("boundary") is not None:
        _integers(f"{where}.boundary", [step["boundary"]], 0, layers + 1)
    _integers(f"{where}.entered", step.get("entered"), 0, length + 1, 2)
    _numbers(f"{where}.similarity", step.get("similarity"), layers)
    for layer, drift in enumerate(_list(f"{where}.selection", step.get("selection"), layers)):
        if drift is not None:
            if not isinstance(drift, Mapping):
                raise ValueError(f"{where}.selection[{layer}] must be an object, got {drift!r}")
            _numbers(f"{where}.selection[{layer}]", [drift.get(k) for k in DRIFTS])
    if step.get("importance") is not None:
        _numbers(f"{where}.importance", step["importance"], length)
    candidates = _integers(f"{where}.candidates", step.get("candidates"), 0, length)
    if any(a >= b for a, b in zip(candidates, candidates[1:], strict=False)):
        raise ValueError(f"{where}.candidates must ascend")
    _integers(f"{where}.predicted", step.get("predicted"), 0, 2**31, len(candidates))
    _numbers(f"{where}.confidence", step.get("confidence"), len(candidates))
    written = _integers(f"{where}.written", step.get("written"), 0, length)
    _integers(f"{where}.tokens", step.get("tokens"), 0, 2**31, len(written))


DRIFTS = ("highest", "least_computed", "highest_reused")


def _list(where: str, values: Any, length: int | None) -> list[Any]:
    if not isinstance(values, list) or (length is not None and len(values) != length):
        entries = "" if length is None else f" of {length} entries"
        raise ValueError(f"{where} must be a list{entries}")
    return values


def _integers(where: str, values: Any, low: int, high: int, length: int | None = None) -> list[int]:
    for value in _list(where, values, length):
        if type(value) is not int or not low <= value < high:
            raise ValueError(f"{where} must hold integers in [{low}, {high}), got {value!r}")
    return values


def _numbers(where: str, values: Any, length: int | None = None) -> None:
    for value in _list(where, values, length):
        if value is not None and type(value) not in (int, float):
            raise ValueError(f"{where} must hold numbers or null, got {value!r}")


def _ranges(where: str, ranges: Any, length: int) -> None:
    end = -1
    for pair in _list(where, ranges, None):
        begin, stop = _integers(where, pair, 0, length + 1, 2)
        if begin <= end or stop <= begin:
            raise ValueError(f"{where} must hold ascending ranges apart, got {pair}")
        end = stop
