"""Freed memory goes back to the system."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
import torch

from dlmcache_cuda.model.freed_memory import give_back

STATUS = Path("/proc/self/status")


def resident() -> int:
    lines = STATUS.read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) * 1024


@pytest.mark.skipif(
    not STATUS.exists() or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc"
)
def test_holes_between_living_tensors_are_returned():
    each, count = 100_000, 1000  # small enough for the heap
    tensors = [torch.ones(each // 4) for _ in range(count)]
    before = resident()
    del tensors[::2]
    give_back()
    assert resident() < before - each * count // 4
    assert all(tensor[-1] == 1 for tensor in tensors)


def test_does_nothing_where_the_c_library_cannot(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    give_back()
