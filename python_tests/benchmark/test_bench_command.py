"""``dlmcache bench`` as users call it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from dlmcache_cuda.benchmark.suites import SUITES
from dlmcache_cuda.cli import bench
from dlmcache_cuda.cli.bench import SUITE_NAMES
from dlmcache_cuda.cli.main import main
from dlmcache_cuda.testing.tiny_model import random_checkpoint


@pytest.fixture(autouse=True)
def _no_copies(monkeypatch):
    """Half a second per call that these tests do not need."""
    monkeypatch.setattr("dlmcache_cuda.benchmark.machine.copy_bandwidth", lambda _device: 1.0)


TINY = ["--model", "random:2x64:vocab=96", "--gen-lengths", "16", "--prompt-lengths", "12"]
QUICK = ["--policies", "dual", "--repeats", "1", "--no-memory", "--device", "cpu"]


def test_bench_writes_tables_json_and_figures(tmp_path, capsys):
    page = tmp_path / "page.md"
    where = ["--out", str(tmp_path), "--markdown", str(page)]
    assert main(["bench", *TINY, *QUICK, *where]) == 0
    said = capsys.readouterr().out
    for text in ("copy bandwidth", "stock transformers", "dual", "refresh at a fixed rate"):
        assert text in said
    folder = tmp_path / "custom"
    assert said.startswith((folder / "results.md").read_text())
    content = json.loads((folder / "results.json").read_text())
    assert [result["row"]["cache"] for result in content["results"]] == ["none", "none", "dual"]
    assert content["machine"]["torch"] and content["machine"]["command"].startswith("dlmcache ")
    for figure in content["figures"]:
        assert (folder / figure).exists()
    assert "<!-- bench custom -->" in page.read_text()
    lines = (folder / "repetitions.jsonl").read_text()
    assert main(["bench", *TINY, *QUICK, *where, "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["results"]) == 3
    assert (folder / "repetitions.jsonl").read_text() == lines, "nothing is measured twice"
    assert main(["bench", *TINY, *QUICK, *where, "--fresh"]) == 0
    assert (folder / "repetitions.jsonl").read_text() != lines


def test_bench_of_a_checkpoint_with_prompts_of_a_file(tmp_path, capsys):
    folder = random_checkpoint(tmp_path / "model", tokenizer=True)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("w5 w7 w9\n\nw8\n")
    call = ["bench", "--model", str(folder), "--prompts", str(prompts), "--sequences", "3"]
    call += ["--gen-lengths", "16", "--commits", "2", "0.9", *QUICK, "--out", str(tmp_path)]
    assert main([*call, "--json"]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    assert [r["same_tokens"] for r in results if r["row"]["engine"] == "stock"] == [True, True]
    assert main([*call, "--profile", "--no-stock"]) == 0
    said = capsys.readouterr().out
    assert "### Time by phase" in said and "in operators and GEMMs" in said


def test_a_suite_tells_targets_and_whether_they_are_met(tmp_path, capsys):
    call = ["bench", "--suite", "stock", "--small", "--repeats", "1", "--no-memory"]
    assert main([*call, "--device", "cpu", "--out", str(tmp_path), "--json"]) == 0
    targets = json.loads(capsys.readouterr().out)["targets"]
    assert len(targets) == 4
    assert all("same tokens" in target["note"] for target in targets)


def test_plan_lists_and_measures_nothing(tmp_path, capsys):
    assert main(["bench", "--suite", "targets", "--plan", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("Target ") == len(SUITES)
    assert not list(tmp_path.iterdir())


def test_names_of_suites():
    assert tuple(SUITES) == SUITE_NAMES


def test_an_interruption_leaves_a_page_of_what_there_is(tmp_path, capsys, monkeypatch):
    from dlmcache_cuda.benchmark.progress import RichReporter

    def interrupt(_self):
        raise KeyboardInterrupt

    monkeypatch.setattr(RichReporter, "done", interrupt)
    assert main(["bench", *TINY, *QUICK, "--out", str(tmp_path)]) == 130
    assert "the same command goes on with what is left (2 measurements)" in capsys.readouterr().err
    content = json.loads((tmp_path / "custom" / "results.json").read_text())
    assert [result["repeats"] for result in content["results"]] == [1, 0, 0]


@pytest.mark.parametrize(
    "options, said",
    [
        (["--repeats", "0"], "--repeats must be at least 1, got 0"),
        (["--batch-sizes", "1", "-2"], "--batch-sizes must be at least 1, got -2"),
        (["--suite", "speed", "--model", "bundled"], "--suite speed does not go with --model"),
        (["--small"], "--small belongs to --suite"),
        (["--policies", "dul"], "Did you mean 'dual'"),
        (["--model", "random:2x65"], "model must be random:LAYERSxWIDTH"),
        (["--model", "/no/such"], "/no/such does not exist"),
        (["--prompts", "/no/such"], "/no/such"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_wrong_use_is_told_before_anything_is_measured(options, said, tmp_path, capsys):
    assert main(["bench", *options, "--out", str(tmp_path), "--device", "cpu"]) == 2
    assert said in capsys.readouterr().err


def test_a_device_that_is_not_there(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert main(["bench", *TINY, "--out", str(tmp_path), "--device", "cuda"]) == 2
    assert "load: device 'cuda'" in capsys.readouterr().err


def test_two_processes_share_the_rounds(tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    rows = ["--policies", "dual", "--repeats", "3", "--no-memory", "--no-stock", "--device", "cpu"]
    result = subprocess.run(
        [*launcher, "-m", "dlmcache_cuda", "bench", *TINY, *rows, "--out", str(tmp_path)],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("written to") == 1 and "- processes: 2" in result.stdout
    lines = (tmp_path / "custom" / "repetitions.jsonl").read_text().splitlines()
    measured = [(record["row"], record["number"]) for record in map(json.loads, lines)]
    assert len(measured) == len(set(measured)) == 2 * 3
    content = json.loads((tmp_path / "custom" / "results.json").read_text())
    assert len(content["results"]) == 2


def test_the_recorded_command_names_no_folder_of_this_machine():
    given = ["bench", "--out", "/tmp/a b", "--suite", "stock", "--markdown=/tmp/page.md"]
    assert bench._command(given) == "dlmcache bench --suite stock"
