"""Processes of a launcher: their places, GPUs and shares, and what they tell each other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import dlmcache_cuda
from dlmcache_cuda import parallel
from dlmcache_cuda.assets.questions import make_questions
from dlmcache_cuda.parallel import ProcessGroup, Ranks, device_of_rank, shard, unshard

ROOT = Path(__file__).parents[2]


def test_without_a_launcher_there_is_one_process():
    assert Ranks.from_environment({}) == Ranks(0, 0, 1)
    assert Ranks.from_environment({"LOCAL_RANK": "2"}) == Ranks(0, 2, 1)


def test_a_launchers_variables_are_read():
    environment = {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8"}
    assert Ranks.from_environment(environment) == Ranks(5, 1, 8)


@pytest.mark.parametrize(
    "environment, message",
    [
        ({"RANK": "0"}, "LOCAL_RANK, WORLD_SIZE is not"),
        ({"RANK": "0", "LOCAL_RANK": "0"}, "WORLD_SIZE is not"),
        ({"RANK": "x", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}, "RANK must be an integer, got 'x'"),
        ({"RANK": "2", "LOCAL_RANK": "0", "WORLD_SIZE": "2"}, "RANK must be an integer from 0 to"),
        ({"RANK": "0", "LOCAL_RANK": "-1", "WORLD_SIZE": "2"}, "LOCAL_RANK must be an integer"),
        ({"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "0"}, "WORLD_SIZE must be an integer >= 1"),
    ],
)
def test_wrong_variables_are_named(environment, message):
    with pytest.raises(ValueError) as caught:
        Ranks.from_environment(environment)
    assert message in str(caught.value)


def test_every_process_takes_its_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    current = []
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    monkeypatch.setattr(parallel._extension, "has_cuda", lambda: True)
    second = Ranks(1, 1, 2)
    assert device_of_rank(second) == device_of_rank(second, "cuda") == "cuda:1"
    assert device_of_rank(second, "cpu") == "cpu"
    assert device_of_rank(Ranks(), "cuda:1") == "cuda:1" and device_of_rank(Ranks()) is None
    assert device_of_rank(Ranks(0, 1, 1)) == "cuda:1"
    assert current == [1, 1, 1]
    with pytest.raises(ValueError, match="each takes the GPU of its LOCAL_RANK.*got 'cuda:0'"):
        device_of_rank(second, "cuda:0")
    with pytest.raises(ValueError, match="LOCAL_RANK 2 needs GPU 2, but torch sees 2"):
        device_of_rank(Ranks(2, 2, 4))


def test_without_gpus_every_process_takes_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of_rank(Ranks(1, 1, 2)) == "cpu"


@pytest.mark.parametrize("count", [0, 1, 2, 7])
@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_shares_hold_everything_once_and_come_back_in_order(count, world_size):
    items = list(range(count))
    parts = [shard(items, Ranks(rank, rank, world_size)) for rank in range(world_size)]
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert unshard(parts) == items


def test_alone_a_group_answers_at_once():
    with ProcessGroup(Ranks()) as group:
        group.barrier()
        assert group.gather("a") == group.all_gather("a") == ["a"]
    assert not torch.distributed.is_initialized()


def test_two_processes_give_the_texts_of_one():
    program = Path(__file__).parent / "two_processes.py"
    # A program finds the modules beside itself; this package need not be installed.
    folders = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    result = subprocess.run(
        [*launcher, "--nproc-per-node", "2", str(program)],
        env=os.environ | {"PYTHONPATH": folders},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    said = json.loads(result.stdout.strip().splitlines()[-1])
    assert said["ranks"] == [0, 1]
    prompts = [question.prompt for question in make_questions(5, seed=3)]
    alone = dlmcache_cuda.decode(
        dlmcache_cuda.load(device="cpu"), prompts, gen_length=32, threshold=0.9, seed=0
    )
    assert said["texts"] == alone.text
