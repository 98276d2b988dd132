"""Files of results and of workloads: damaged, changed, or written by two runs together."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from dlmcache_cuda.benchmark.matrix import Matrix
from dlmcache_cuda.benchmark.measure import Measured
from dlmcache_cuda.benchmark.models import ModelSpec
from dlmcache_cuda.benchmark.prompts import Prompts
from dlmcache_cuda.benchmark.row import Row, Workload
from dlmcache_cuda.benchmark.runner import DRIFT, MEMORY, TIME
from dlmcache_cuda.benchmark.store import Store
from dlmcache_cuda.testing import tiny_model
from dlmcache_cuda.testing.tiny_model import random_checkpoint

RECORD = Measured(seconds=1.0, step_seconds=[1.0], refreshed=[True]).record(Prompts([]))


@pytest.fixture
def path(tmp_path):
    """Three lines."""
    store = Store(tmp_path / "r.jsonl", "x")
    store.add(TIME, "row", 0, RECORD)
    store.add(DRIFT, "row", 0, {"drifted": []})
    store.add(TIME, "row", 1, {"failed": "MemoryError"})
    return store.path


def without(name):
    return lambda line: json.dumps({k: v for k, v in json.loads(line).items() if k != name})


@pytest.mark.parametrize(
    "number, change, said",
    [
        (1, lambda line: line[:-9], "is not JSON"),
        (2, lambda line: "", "is empty"),
        (2, lambda line: "  ", "is empty"),
        (1, lambda line: "[1, 2]", "holds no object"),
        (1, lambda line: "\xff\xfe" + line, "is not JSON"),
        (3, lambda line: line + line, "is not JSON"),
        *((3, without(name), f"has no {name!r}") for name in ("fingerprint", "kind", "row")),
        (3, without("number"), "has no 'number'"),
        *((1, without(name), f"has no {name!r}") for name in RECORD),
        (2, without("drifted"), "has no 'drifted'"),
        (1, lambda line: line.replace('"number": 0', '"number": "a"'), "has 'a' as 'number'"),
    ],
)
def test_a_damaged_line_is_named(path, number, change, said):
    lines = path.read_text().splitlines()
    lines[number - 1] = change(lines[number - 1])
    path.write_bytes(("\n".join(lines) + "\n").encode("latin-1"))
    content = path.read_bytes()
    with pytest.raises(ValueError) as caught:
        Store(path, "x")
    assert str(caught.value) == (
        f"{path}, line {number}, {said}: remove that line, or measure everything anew with --fresh"
    )
    assert path.read_bytes() == content, "nothing is lost"


@pytest.mark.parametrize("half", [b'{"half a', b"\xff\xfe", b""])
def test_a_last_line_without_an_end_goes(path, half):
    whole = path.read_bytes()
    path.write_bytes(whole + half)
    assert Store(path, "x").get(TIME, "row", 1)["failed"] == "MemoryError"
    assert path.read_bytes() == whole
    path.write_bytes(b'{"half a')
    Store(path, "x").add(MEMORY, "row", 0, {})
    assert Store(path, "x").get(MEMORY, "row") is not None


def test_lines_of_another_fingerprint_need_not_be_like_ours(path):
    with path.open("a") as file:
        file.write('{"fingerprint": "older"}\n')
    assert Store(path, "x").others == 1


def keys(model: str | Path, prompts: Path | None = None) -> list[str]:
    named = None if prompts is None else str(prompts)
    return [row.key for row in Matrix([str(model)], ["dual"], prompts=named).rows()]


def test_a_file_of_prompts_counts_by_its_content(tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("one\n")
    before = keys("bundled", prompts)
    os.utime(prompts, ns=(0, 0))
    assert keys("bundled", prompts) == before
    prompts.write_text("two\n")
    os.utime(prompts, ns=(0, 0))
    assert not set(keys("bundled", prompts)) & set(before)
    prompts.write_text("one\n")
    assert keys("bundled", prompts) == before


def test_a_checkpoint_that_was_written_anew_is_another(tmp_path):
    folder = random_checkpoint(tmp_path / "model", tokenizer=True)
    before = keys(folder)
    (folder / "notes.md").write_text("not read")
    assert keys(folder) == before
    weights = min(folder.glob("*.safetensors"))
    os.utime(weights, ns=(0, 0))
    assert not set(keys(folder)) & set(before)


def test_without_files_keys_are_what_they_were():
    assert Row(Workload("bundled", "questions", 1, 1, 96)).key == "8b10443cdf95"


def test_a_row_of_files_survives_json(tmp_path):
    (tmp_path / "prompts.txt").write_text("one\n")
    row = Matrix(["bundled"], ["dual"], prompts=str(tmp_path / "prompts.txt")).rows()[0]
    again = Row.from_dict(json.loads(json.dumps(row.to_dict())))
    assert again == row and again.key == row.key and row.workload.files is not None


def test_two_runs_may_write_a_random_model_together(tmp_path, monkeypatch):
    """Both find no folder, and both have written theirs before either puts it there."""
    keep, met = tiny_model.write_checkpoint, threading.Barrier(2, timeout=20)

    def write(*args, **keywords):
        folder = keep(*args, **keywords)
        met.wait()
        return folder

    monkeypatch.setattr(tiny_model, "write_checkpoint", write)
    spec, found, failed = ModelSpec.parse("random:1x64:vocab=96"), [], []

    def run():
        try:
            found.append(spec.folder(tmp_path))
        except BaseException as error:
            failed.append(error)

    runs = [threading.Thread(target=run) for _ in range(2)]
    for thread in runs:
        thread.start()
    for thread in runs:
        thread.join()
    assert not failed and found[0] == found[1]
    assert [path.name for path in (tmp_path / "models").iterdir()] == [Path(found[0]).name]
    assert ModelSpec.parse("random:1x64:vocab=96").load(tmp_path, "cpu").config.n_layers == 1
    assert sorted(path.name for path in Path(found[0]).iterdir()) == [
        "config.json", "model.safetensors",
    ]  # fmt: skip


def test_an_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_args, **_keywords):
        raise KeyboardInterrupt

    monkeypatch.setattr(tiny_model, "write_checkpoint", interrupt)
    with pytest.raises(KeyboardInterrupt):
        ModelSpec.parse("random:1x64:vocab=96").folder(tmp_path)
    assert not list((tmp_path / "models").iterdir())
