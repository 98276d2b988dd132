"""Committing: a block of 32 candidates, a whole canvas of masks, and many slots."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch

from benchmarks.case import Case
from dlmcache_cuda import ops, reference
from dlmcache_cuda.testing.samples.commit import commit_arguments

RULES = (("fixed", 0, 0.0), ("threshold", 1, math.log(0.9)), ("factor", 2, 1.0))


def cases(device: str) -> Iterator[Case]:
    generator = torch.Generator().manual_seed(0)
    for num_slots, candidates, capacity in ((1, 32, 384), (1, 4096, 8192), (32, 256, 1024)):
        sizes = [candidates] * num_slots
        arguments = commit_arguments(generator, sizes, capacity, levels=1 << 20)
        values = [v.to(device) if isinstance(v, torch.Tensor) else v for v in arguments.values()]
        for name, rule, value in RULES:
            call = (*values, rule, value)
            yield Case(
                op="commit_",
                name=f"{name}, {num_slots} x {candidates} candidates, {capacity} positions",
                run=lambda call=call: ops.commit_(*call),
                bytes=num_slots * (28 * candidates + 16 * capacity),
                flops=0,
                baseline=lambda call=call: reference.commit_(*call),
            )
