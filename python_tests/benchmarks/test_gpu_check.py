"""The GPU check as a dry run: its parts on the CPU, what is resumed, and the table."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import report
from benchmarks.gpu.options import Options
from benchmarks.gpu.parts import run_part
from benchmarks.gpu.results import PartResults

ROOT = Path(__file__).parents[2]
LINE = {"what", "value", "unit"}


@pytest.fixture
def options(tmp_path) -> Options:
    return Options("cpu", "tiny", tmp_path, quick=True)


@pytest.mark.parametrize("part", ["copy", "operators", "forward", "decode", "exercise", "soak"])
def test_a_part_measures_and_is_resumed(part, options, capsys, monkeypatch):
    assert run_part(part, options) == 0
    written = json.loads((options.out / f"{part}.json").read_text())
    assert written["status"] == "passed" and written["schema"] == 1 and not written["left"]
    assert written["machine"]["device"] and written["cases"]
    assert written["headline"] and all(set(line) >= LINE for line in written["headline"])

    def measured_again(*arguments):
        raise AssertionError("measured again")

    monkeypatch.setattr(
        importlib.import_module(f"benchmarks.gpu.{part}"), "measure", measured_again
    )
    assert run_part(part, options) == 0
    assert json.loads((options.out / f"{part}.json").read_text())["cases"] == written["cases"]


def test_what_time_does_not_allow_is_left(tmp_path):
    assert run_part("copy", Options("cpu", "tiny", tmp_path, quick=True, seconds=-1)) == 3
    assert json.loads((tmp_path / "copy.json").read_text())["left"] == ["device"]


def test_failed_cases_are_done_again_and_others_of_another_key_too(tmp_path):
    results = PartResults(tmp_path / "a.json", "a", "key", {})
    results.add("good", {})
    results.add("bad", {"failed": "why"})
    assert results.status == "failed"
    assert set(PartResults(tmp_path / "a.json", "a", "key", {}).cases) == {"good"}
    assert not PartResults(tmp_path / "a.json", "a", "other", {}).cases


@pytest.mark.parametrize(
    "outcome, code", [("passed", 0), ("failed", 1), ("time limit", 1), ("incomplete", 3)]
)
def test_the_exit_code_tells(outcome, code, tmp_path, capsys):
    (tmp_path / "copy.status").write_text(f"{outcome} 7\n")
    assert report.write_report(tmp_path) == code
    assert f"| copy | {outcome} | 7 |" in capsys.readouterr().out


def test_the_script_as_a_dry_run(tmp_path):
    environment = os.environ | {"PYTHON": sys.executable}
    call = [str(ROOT / "benchmarks/gpu_check.sh"), "--dry-run", "--out", str(tmp_path)]
    first = subprocess.run(call, env=environment, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stdout + first.stderr
    assert first.stdout.count("would run") == 4
    assert "compute-sanitizer --tool racecheck" in first.stdout
    parts = json.loads((tmp_path / "summary.json").read_text())["parts"]
    assert {part["status"] for part in parts.values()} == {"passed"}
    assert set(parts) >= {"suite", "soak", "copy", "operators", "forward", "decode"}
