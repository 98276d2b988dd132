"""The ranges of a run, as an NVTX tool and as torch.profiler see them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import dlmcache_cuda
from dlmcache_cuda import profiling
from dlmcache_cuda.assets.questions import make_questions

PHASES = ("plan", "rows", "network", "head", "commit", "readback")
DECODE = """
import torch, dlmcache_cuda
torch.set_num_threads(1)
model = dlmcache_cuda.load(device="cpu")
ids = torch.arange(10, 50)
out = dlmcache_cuda.decode(
    model, ids, gen_length=16, block_length=8, stop_at_eos=False, cache="{cache}"
)
print(out.stats.forwards, model.config.n_layers)
"""


def nvtx_include() -> Path | None:
    home = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))
    return home / "include" if (home / "include/nvtx3/nvToolsExt.h").exists() else None


@pytest.fixture(scope="module")
def recorder(tmp_path_factory) -> Path:
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if nvtx_include() is None or compiler is None:
        pytest.skip("needs a C++ compiler and the headers of nvtx3")
    if not dlmcache_cuda.build_info()["nvtx"]:
        pytest.skip("dlmcache_cuda was built without nvtx3")
    library = tmp_path_factory.mktemp("nvtx") / "libnvtx_recorder.so"
    source = Path(__file__).parent / "nvtx_recorder.cpp"
    command = [compiler, "-shared", "-fPIC", "-std=c++17", f"-I{nvtx_include()}"]
    subprocess.run([*command, str(source), "-o", str(library)], check=True)
    return library


def run_decode(recorder: Path, record: Path, cache: str, switch: str) -> tuple[int, int]:
    """Forwards and layers of a decode in a process that a tool listens to."""
    environment = os.environ | {
        "DLMCACHE_NVTX": switch,
        "NVTX_INJECTION64_PATH": str(recorder),
        "NVTX_RECORD": str(record),
    }
    command = [sys.executable, "-c", DECODE.format(cache=cache)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    forwards, layers = done.stdout.split()
    return int(forwards), int(layers)


def paths_of(record: Path) -> list[tuple[str, ...]]:
    """The ranges in the order they opened, each with those around it."""
    paths, around = [], []
    for line in record.read_text().splitlines():
        if line == "-":
            around.pop()
        else:
            around.append(line[1:])
            paths.append(tuple(around))
    assert not around, "a range was opened and not closed"
    return paths


# A small model goes through all layers by one operator, unless they track and select.
WITHIN = {
    "none": ("dlmcache::forward_layers_",),
    "elastic": ("dlmcache::track_layers_",),
    "spa": ("dlmcache::select_layers_",),
    "composed": (),
}


@pytest.mark.parametrize("cache", WITHIN)
def test_an_nvtx_tool_sees_step_layer_operator(recorder, tmp_path, cache):
    record = tmp_path / "record"
    forwards, layers = run_decode(recorder, record, cache, "1")
    paths = paths_of(record)
    assert paths.count(("step",)) == forwards
    for phase in PHASES:
        assert paths.count(("step", phase)) == forwards
    inside = {path[2] for path in paths if path[:2] == ("step", "network") and len(path) > 2}
    assert inside == ({"refresh"} if cache == "none" else {"refresh", "cached"})
    for kind in inside:
        number = paths.count(("step", "network", kind))
        for layer in range(layers):
            around = ("step", "network", kind, *WITHIN[cache], f"layer {layer}")
            assert paths.count(around) == number
            assert paths.count((*around, "dlmcache::rope_scatter_kv_")) >= number
    assert ("step", "head", "dlmcache::head_reduce") in paths
    assert ("step", "commit", "dlmcache::commit_") in paths
    assert all(path[0] == "step" for path in paths if path[-1] == "dlmcache::attention_rows")


def test_without_the_variable_an_nvtx_tool_sees_nothing(recorder, tmp_path):
    record = tmp_path / "record"
    run_decode(recorder, record, "prefix", "0")
    assert not record.exists()


def test_another_value_of_the_variable_is_refused():
    command = [sys.executable, "-c", "import dlmcache_cuda"]
    environment = os.environ | {"DLMCACHE_NVTX": "yes"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "DLMCACHE_NVTX must be 0 or 1, got 'yes'" in done.stderr


def decode_question(**settings):
    (question,) = make_questions(1, seed=0)
    prompt = [{"role": "user", "content": question.prompt}]
    model = dlmcache_cuda.load(device="cpu")
    return dlmcache_cuda.decode(model, prompt, gen_length=32, block_length=8, **settings)


def test_torch_profiler_sees_the_same_names():
    activities = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profiler:
        out = decode_question(cache="composed")
    parents = {}
    counts: dict[str, int] = {}
    for event in profiler.events():
        counts[event.name] = counts.get(event.name, 0) + 1
        if event.cpu_parent is not None:
            parents.setdefault(event.name, set()).add(event.cpu_parent.name)
    for name in ("step", *PHASES):
        assert counts[name] == out.stats.forwards
    assert parents["plan"] == parents["network"] == {"step"}
    assert parents["layer 0"] == {"refresh", "cached"}
    assert "layer 0" in parents["dlmcache::rope_scatter_kv_"]
    assert parents["dlmcache::head_reduce"] == {"head"}


def test_nobody_looking_there_is_no_range():
    assert profiling.annotate("step") is profiling.annotate("layer", 3)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]):
        assert profiling.annotate("step") is not profiling.annotate("step")


def test_unused_ranges_cost_less_than_a_hundredth_of_a_cached_step():
    out = decode_question(cache="dual", stop_at_eos=False)
    step = out.stats.seconds["total"] / out.stats.forwards
    rounds = 10000
    begin = time.perf_counter()
    for _ in range(rounds):
        with profiling.annotate("layer", 3):
            pass
    each = (time.perf_counter() - begin) / rounds
    ranges = 2 + len(PHASES) + dlmcache_cuda.load(device="cpu").config.n_layers
    assert ranges * each < 0.01 * step, f"{ranges} ranges of {each:.2e} s, step {step:.2e} s"
