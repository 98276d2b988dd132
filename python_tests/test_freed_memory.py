"""Freed memory goes back to the system."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
import torch

import dlmcache_cuda
from dlmcache_cuda import freed_memory
from dlmcache_cuda.freed_memory import ResidentBound, give_back, resident_bytes
from dlmcache_cuda.testing.tiny_model import random_model

STATUS = Path("/proc/self/status")


glibc = pytest.mark.skipif(
    not STATUS.exists() or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="needs glibc"
)
MIB = 2**20


@glibc
def test_resident_bytes_are_what_the_kernel_says():
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("VmRSS:"))
    assert resident_bytes() == pytest.approx(int(line.split()[1]) * 1024, abs=4 * MIB)


@glibc
def test_holes_between_living_tensors_are_returned():
    each, count = 100_000, 1000  # small enough for the heap
    tensors = [torch.ones(each // 4) for _ in range(count)]
    before = resident_bytes()
    del tensors[::2]
    give_back()
    assert resident_bytes() < before - each * count // 4
    assert all(tensor[-1] == 1 for tensor in tensors)


def test_does_nothing_where_the_c_library_cannot(monkeypatch):
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    give_back()


class Process:
    """A process and a clock: what is resident, what of it is free inside the heap."""

    def __init__(self, monkeypatch, resident: int) -> None:
        self.resident, self.free, self.now, self.returns = resident, 0, 0.0, 0
        monkeypatch.setattr(freed_memory, "resident_bytes", lambda: self.resident)
        monkeypatch.setattr(freed_memory, "give_back", self.give_back)
        monkeypatch.setattr(freed_memory.time, "monotonic", lambda: self.now)

    def give_back(self) -> None:
        self.resident -= self.free
        self.free = 0
        self.returns += 1

    def grow(self, used: int = 0, free: int = 0) -> None:
        self.resident += used + free
        self.free += free


def test_free_memory_beyond_the_bound_is_returned(monkeypatch):
    process = Process(monkeypatch, 100 * MIB)
    bound = ResidentBound(200 * MIB, 300 * MIB)  # a fiftieth more: 306 MiB
    process.grow(used=200 * MIB, free=6 * MIB)
    process.now = 1.0
    bound.look()
    assert process.returns == 0
    process.grow(free=1 * MIB)
    bound.look()
    assert process.returns == 0  # no time has passed since the last look
    process.now = 2.0
    bound.look()
    assert (process.returns, process.resident) == (1, 300 * MIB)


def test_what_is_in_use_is_not_asked_for_again(monkeypatch):
    process = Process(monkeypatch, 100 * MIB)
    bound = ResidentBound(0, 100 * MIB)
    process.grow(used=300 * MIB)  # by others, or what libraries keep
    for _ in range(3):
        process.now += 10
        bound.look()
    assert process.returns == 1
    process.grow(free=4 * MIB)  # the least that is let be
    process.now += 10
    bound.look()
    assert process.returns == 1
    process.grow(free=MIB)
    process.now += 10
    bound.look()
    assert (process.returns, process.resident) == (2, 400 * MIB)


def test_the_more_was_returned_the_longer_until_the_next_time(monkeypatch):
    process = Process(monkeypatch, 0)
    bound = ResidentBound(0, MIB)
    process.now = 1.0
    process.grow(free=40 * MIB)  # 10,240 pages: 20 milliseconds of at least a second
    bound.look()
    process.grow(free=40 * MIB)
    process.now = 1.9
    bound.look()
    assert process.returns == 1
    process.now = 2.1
    bound.look()
    assert process.returns == 2


@pytest.mark.parametrize("path", ["/nowhere", "/dev/null"])
def test_nothing_happens_where_the_system_does_not_tell(monkeypatch, path):
    monkeypatch.setattr(freed_memory, "_STATM", Path(path))
    monkeypatch.setattr(freed_memory, "give_back", lambda: pytest.fail("asked"))
    assert resident_bytes() is None
    bound = ResidentBound(0, 0)
    monkeypatch.setattr(freed_memory.time, "monotonic", lambda: float("inf"))
    bound.look()


@pytest.mark.parametrize("streamed", [False, True])
def test_every_step_looks(monkeypatch, streamed):
    looks = []
    monkeypatch.setattr(ResidentBound, "look", lambda self: looks.append(self))
    model = random_model(device="cpu")
    ids = torch.arange(1, 12)
    decode = dlmcache_cuda.stream if streamed else dlmcache_cuda.decode
    out = decode(model, ids, gen_length=8, block_length=8, stop_at_eos=False)
    if streamed:
        list(out)
    assert len(looks) == 8
