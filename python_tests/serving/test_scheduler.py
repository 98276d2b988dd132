"""Who gets which slot, and when; without HTTP and without a thread."""

from __future__ import annotations

import dataclasses
import gc
import weakref

import pytest
import torch

from dlmcache_cuda.serving import scheduler as scheduler_module
from dlmcache_cuda.serving.job import Job, Snapshot
from dlmcache_cuda.serving.lane import Lane
from dlmcache_cuda.serving.metrics import Metrics
from dlmcache_cuda.serving.scheduler import Scheduler
from dlmcache_cuda.serving.text_codec import TextCodec

from .conftest import LIMITS, SETTINGS

A, B, C = (dataclasses.replace(SETTINGS, threshold=threshold) for threshold in (0.9, 0.8, 0.7))
# No end before the last token, and one token per step.
SLOW = dataclasses.replace(SETTINGS, threshold=None, logits_eos_inf=True)


class Letters:
    """In place of a mailbox."""

    def __init__(self) -> None:
        self.all: list[Snapshot] = []

    def put(self, snapshot: Snapshot) -> None:
        self.all.append(snapshot)

    @property
    def over(self) -> bool:
        return bool(self.all) and self.all[-1].over


def job(settings, max_tokens: int = 32) -> Job:
    return Job(
        prompt_ids=torch.tensor([5, 6, 7]),
        settings=settings,
        gen_length=32,
        max_tokens=max_tokens,
        stop=(),
        seed=0,
        wants_draft=False,
        mailbox=Letters(),
    )


@pytest.fixture
def make(model):
    def made(**changes) -> Scheduler:
        limits = dataclasses.replace(LIMITS, **{"num_slots": 2, "max_lanes": 2} | changes)
        return Scheduler(model, limits, TextCodec(model), Metrics(2, 2))

    return made


def finish(scheduler: Scheduler, steps: int = 500) -> None:
    for _ in range(steps):
        if scheduler.idle:
            return
        scheduler.work()
    raise AssertionError("it does not end")


def test_jobs_of_equal_settings_share_a_lane_and_full_lanes_let_others_pass(make):
    scheduler = make()
    jobs = [job(SLOW), job(SLOW), job(SLOW), job(A)]
    scheduler.enqueue(jobs)
    scheduler.work()
    assert set(scheduler.lanes) == {SLOW, A}
    assert list(scheduler.waiting) == [jobs[2]], "two slots hold two, the fourth has another lane"
    assert all(jobs[index].mailbox.all for index in (0, 1, 3))
    finish(scheduler)
    assert all(one.mailbox.over for one in jobs)


def test_lane_makes_room_for_settings_that_wait(make):
    scheduler = make(max_lanes=1, num_slots=1)
    first, second, other, third = job(SLOW), job(SLOW), job(B), job(SLOW)
    scheduler.enqueue([first, second, other, third])
    order = []
    for _ in range(500):
        if scheduler.idle:
            break
        scheduler.work()
        for one in (first, second, other, third):
            if one.mailbox.over and one not in order:
                order.append(one)
    assert order == [first, second, other, third], "an older job was overtaken"


def test_stream_of_equal_settings_does_not_keep_others_waiting(make):
    """A lane that is always refilled: the job with other settings comes in nevertheless."""
    scheduler = make(max_lanes=1, num_slots=2)
    other = job(B)
    scheduler.enqueue([job(SLOW), job(SLOW), other])
    for _ in range(200):
        scheduler.enqueue([job(SLOW)])
        scheduler.work()
        if other.mailbox.over:
            return
    raise AssertionError("it waits for ever")


def test_cancelled_jobs_leave_the_queue_and_their_slots(make):
    scheduler = make(num_slots=1)
    running, waiting, last = job(SLOW), job(SLOW), job(SLOW, max_tokens=2)
    scheduler.enqueue([running, waiting, last])
    scheduler.work()
    running.cancelled = waiting.cancelled = True
    finish(scheduler)
    assert not running.mailbox.over and not waiting.mailbox.all
    assert last.mailbox.all[-1].transcript.num_tokens == 2


def test_idle_lanes_are_given_back(make):
    scheduler = make(lane_idle_seconds=0.0)
    scheduler.enqueue([job(SLOW), job(A)])
    scheduler.work()
    assert SLOW in scheduler.lanes
    finish(scheduler)
    assert not scheduler.lanes


def test_idle_lane_is_freed_before_another_one_is_opened(make, monkeypatch):
    scheduler = make(max_lanes=1)
    scheduler.enqueue([job(A)])
    finish(scheduler)
    old = weakref.ref(scheduler.lanes[A])
    alive = []

    class Watched(Lane):
        def __init__(self, *arguments) -> None:
            alive.append(old())
            super().__init__(*arguments)

    monkeypatch.setattr(scheduler_module, "Lane", Watched)
    gc.disable()  # a cycle would keep the cache of the old lane beside the new one
    try:
        scheduler.enqueue([job(B)])
        finish(scheduler)
    finally:
        gc.enable()
    assert alive == [None]
    assert list(scheduler.lanes) == [B]


def no_memory_for(monkeypatch, settings) -> None:
    class Scarce(Lane):
        def __init__(self, model, wanted, *rest) -> None:
            if wanted in settings:
                raise MemoryError("needs 20 GiB, 1 GiB are available")
            super().__init__(model, wanted, *rest)

    monkeypatch.setattr(scheduler_module, "Lane", Scarce)


def test_without_memory_for_any_lane_the_job_is_refused_with_503(make, monkeypatch):
    no_memory_for(monkeypatch, [A])
    scheduler = make()
    refused, served = job(A), job(B)
    scheduler.enqueue([refused, served])
    finish(scheduler)
    (letter,) = refused.mailbox.all
    assert letter.error.status == 503 and "20 GiB" in letter.error.message
    assert served.mailbox.all[-1].error is None


def test_without_memory_for_a_second_lane_jobs_take_turns(make, monkeypatch):
    scheduler = make()
    first, second = job(SLOW), job(B)
    scheduler.enqueue([first])
    scheduler.work()
    no_memory_for(monkeypatch, [B])
    scheduler.enqueue([second])
    scheduler.work()
    assert not second.mailbox.all, "it waits for the memory of the first"
    monkeypatch.setattr(scheduler_module, "Lane", Lane)
    finish(scheduler)
    assert first.mailbox.over and second.mailbox.all[-1].error is None


def test_lane_that_fails_ends_its_jobs_only(make, monkeypatch):
    scheduler = make()
    victims, others = [job(SLOW), job(SLOW)], [job(B), job(C)]
    scheduler.enqueue(victims)
    scheduler.work()

    def fail():
        raise FloatingPointError("logits are NaN")

    monkeypatch.setattr(scheduler.lanes[SLOW], "step", fail)
    scheduler.enqueue(others)
    finish(scheduler)
    for victim in victims:
        assert victim.mailbox.all[-1].error.status == 500
    for other in others:
        assert other.mailbox.all[-1].error is None
    again = job(SLOW)
    scheduler.enqueue([again])
    finish(scheduler)
    assert again.mailbox.all[-1].transcript.num_tokens == 32
    assert scheduler.failures == 0
