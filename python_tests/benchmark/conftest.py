"""A workload that takes milliseconds, and rows of it."""

from __future__ import annotations

import pytest

from dlmcache_cuda.benchmark.models import ModelSpec
from dlmcache_cuda.benchmark.row import Workload
from dlmcache_cuda.benchmark.runner import Runner, RunOptions
from dlmcache_cuda.benchmark.store import Store

TINY = "random:2x64:vocab=96"


@pytest.fixture(scope="session")
def out(tmp_path_factory):
    """Where the model with random weights is written, once."""
    return tmp_path_factory.mktemp("bench")


@pytest.fixture(scope="session")
def model(out):
    return ModelSpec.parse(TINY).load(out, "cpu")


@pytest.fixture
def workload():
    return Workload(TINY, "random", 2, 2, 16, prompt_length=12, ragged=True, early_stop=False)


@pytest.fixture
def run(out, tmp_path):
    """Measures rows without memory; returns the runner."""

    def measure(rows, repeats=1, name="repetitions.jsonl", **options):
        options = {"memory": False, "device": "cpu"} | options
        store = Store(tmp_path / name, "tested")
        runner = Runner(rows, RunOptions(repeats, out, **options), store)
        runner.run()
        return runner

    return measure
