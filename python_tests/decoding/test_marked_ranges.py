"""Marks choose among the rows of a plan's range: what they say outside of it means nothing."""

from __future__ import annotations

import pytest
import torch
from oracles.compare import random_prompts
from oracles.every_policy import model_of
from oracles.resident import resident

import dlmcache_cuda
from dlmcache_cuda.policies import SlotPlan
from dlmcache_cuda.policies.fast_dllm import Dual

BLOCK, HALF = 8, 4


def plan_halves(self, view):
    """Behind a refresh the right half of a block, then its left half."""
    if view.step_in_block in (0, HALF):
        return SlotPlan(0, view.length, refresh=True)
    begin = view.block_begin + (HALF if view.step_in_block < HALF else 0)
    return SlotPlan(begin, begin + HALF, refresh=False, marked=True)


def mark_everything(self, step, plan):
    plan.marks = torch.ones_like(self.frame.twinned(step.masked))


@pytest.mark.parametrize("is_resident", [False, True], ids=["exact", "resident"])
@pytest.mark.parametrize("slots", [1, 2])
def test_rows_outside_of_the_range_neither_enter_nor_predict(monkeypatch, slots, is_resident):
    monkeypatch.setattr(Dual, "plan_slot", plan_halves)
    monkeypatch.setattr(Dual, "mark", mark_everything)
    prompts = random_prompts(3, [5, 9][:slots])
    options = {"gen_length": 3 * BLOCK, "block_length": BLOCK, "batch_size": slots, "trace": True}
    model = model_of("llada")
    if is_resident:
        with resident():
            out = dlmcache_cuda.decode(model, prompts, cache="dual", **options)
    else:
        out = dlmcache_cuda.decode(model, prompts, cache="dual", **options)
    found = 0
    for prompt, sequence in zip(prompts, out.sequences, strict=True):
        for step, trace in enumerate(sequence.trace):
            block, turn = divmod(step, BLOCK)
            if turn in (0, HALF):
                continue
            first = block * BLOCK + (HALF if turn < HALF else 0)
            half = range(first, first + HALF)
            # None where the refreshes left fewer masks there than steps.
            committed = (sequence.commit_step == step).nonzero().flatten().tolist()
            assert set(committed) <= set(half)
            found += len(committed)
            rows = [len(prompt) + position for position in half]
            assert all(layer.tolist() == rows for layer in trace.rows)
    assert found > slots * BLOCK
