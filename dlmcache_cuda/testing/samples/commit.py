"""Samples of the commit family."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from dlmcache_cuda.testing.samples import Sample

MASK = 99
ENDS = (7, 8)


def commit_arguments(
    generator: torch.Generator,
    candidates: Sequence[int],
    capacity: int,
    unused: int = 0,
    invalid: float = 0.0,
    mask: float = 0.0,
    levels: int = 16,
) -> dict[str, Any]:
    """Random arguments of ``commit_`` on the CPU, all but ``rule`` and ``rule_value``.

    Args:
        generator: the source of randomness.
        candidates: number of candidates of each slot.
        capacity: positions of one slot.
        unused: unused entries behind the candidates.
        invalid: share of candidates without a token or with a NaN.
        mask: share of candidates that predict the mask token.
        levels: number of distinct confidences; few make many ties.
    """
    num_slots = len(candidates)

    def integers(low: int, high: int, *size: int) -> torch.Tensor:
        return torch.randint(low, high, size, generator=generator)

    def chance(share: float, size: int) -> torch.Tensor:
        return torch.rand(size, generator=generator) < share

    tokens = integers(0, 40, num_slots * capacity)
    rows = [
        slot * capacity + torch.randperm(capacity, generator=generator)[:count].sort().values
        for slot, count in enumerate(candidates)
    ]
    row_index = torch.cat([*rows, torch.full((unused,), -1, dtype=torch.int64)])
    tokens[row_index[row_index >= 0]] = MASK
    size = len(row_index)
    token = integers(0, 40, size)
    token[chance(mask, size)] = MASK
    token[chance(invalid, size)] = -1
    log_confidence = torch.log((integers(0, levels, size) + 0.5) / levels)
    log_confidence[chance(0.05, size)] = -math.inf
    log_confidence[chance(invalid, size)] = math.nan
    spans = torch.zeros(num_slots, 4, dtype=torch.int64)
    for slot in range(num_slots):
        gen_begin = int(integers(0, capacity, 1))
        block = sorted(integers(gen_begin, capacity + 1, 2).tolist())
        spans[slot] = torch.tensor([gen_begin, capacity, *block])
    return {
        "tokens": tokens,
        "commit_step": torch.full((num_slots * capacity,), -1),
        "commit_log_confidence": torch.zeros(num_slots * capacity),
        "row_index": row_index,
        "cu_rows": torch.tensor([0, *candidates], dtype=torch.int64).cumsum(0),
        "token": token,
        "log_confidence": log_confidence,
        "score": None,
        "num_commit": integers(1, 6, num_slots),
        "steps": integers(0, 100, num_slots),
        "spans": spans,
        "end_ids": torch.tensor(ENDS),
        "mask_id": MASK,
        "capacity": capacity,
    }


def samples(device: str = "cpu") -> Iterator[Sample]:
    generator = torch.Generator().manual_seed(0)

    def sample(name: str, arguments: dict[str, Any], rule: int, value: float = 0.0) -> Sample:
        values = (*arguments.values(), rule, value)
        return Sample("commit_", name, values).to(device)

    rules = (("fixed", 0, 0.0), ("threshold", 1, math.log(0.7)), ("factor", 2, 1.0))
    for name, rule, value in rules:
        one = commit_arguments(generator, [12], 20)
        yield sample(f"{name}-one-slot", one, rule, value)
        mixed = commit_arguments(generator, [9, 0, 1, 17], 21, unused=5, invalid=0.1, mask=0.1)
        mixed["num_commit"] = torch.tensor([3, 2, 5, 99])
        yield sample(f"{name}-slots", mixed, rule, value)
        # An idle slot, an empty slot with candidates, and no end tokens to look for.
        idle = commit_arguments(generator, [4, 5, 6], 13, unused=1)
        idle["num_commit"] = torch.tensor([0, 3, -1])
        idle["spans"][1] = torch.tensor([6, 6, 0, 13])
        idle["end_ids"] = torch.empty(0, dtype=torch.int64)
        yield sample(f"{name}-idle", idle, rule, value)
        # More candidates than a thread block has threads, and many ties.
        large = commit_arguments(generator, [700, 3, 333], 1500, invalid=0.02, levels=64)
        large["log_confidence"][:200] = torch.linspace(-1e-3, 0, 200)
        large["num_commit"] = torch.tensor([150, 1, 40])
        yield sample(f"{name}-large", large, rule, value)
    scored = commit_arguments(generator, [9, 11], 30, invalid=0.1)
    scored["score"] = torch.rand(20, generator=generator)
    scored["score"][3] = math.nan
    yield sample("fixed-score", scored, 0)
    yield sample("no-candidates", commit_arguments(generator, [0, 0], 5), 1, -0.5)
    yield sample("unused", commit_arguments(generator, [0], 5, unused=3), 0)
    yield sample("no-slots", commit_arguments(generator, [], 5, unused=2), 2, 1.0)
