"""dlmcache eval: tasks from files, results, several processes, wrong uses."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install lm-eval==0.4.13")

from dlmcache_cuda.cli.main import main
from dlmcache_cuda.evaluation import run

EXAMPLES = Path(__file__).parents[2] / "examples" / "evaluation"
BASE = ["eval", "--device", "cpu", "--apply-chat-template", "--threshold", "0.9"]

TASK = """
task: questions_of_a_file
dataset_path: json
dataset_kwargs:
  data_files: {{test: {path}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{final}}}}"
generation_kwargs: {{until: ["<|endoftext|>"], max_gen_toks: 96}}
filter_list:
  - name: last_word
    filter: [{{function: regex, regex_pattern: "#### (\\\\S+)"}}, {{function: take_first}}]
metric_list: [{{metric: exact_match}}]
"""


def without_those_of_lm_eval(monkeypatch, module):
    """Reading the thousands of tasks that come with lm-eval takes half a minute."""
    everything = module.TaskManager
    monkeypatch.setattr(
        module,
        "TaskManager",
        lambda **arguments: everything(**arguments | {"include_defaults": False}),
    )


def test_a_task_file_with_its_own_data(questions_file, tmp_path, capsys):
    task = tmp_path / "questions_of_a_file.yaml"
    task.write_text(TASK.format(path=questions_file))
    output, samples = tmp_path / "results.json", tmp_path / "samples.jsonl"
    files = ["--output", str(output), "--samples", str(samples)]
    arguments = [*BASE, "--tasks", str(task), "--limit", "4", "--cache", "dual"]
    assert main([*arguments, "--block-length", "32", *files]) == 0
    out = capsys.readouterr().out
    assert "questions_of_a_file" in out and "tokens per forward" in out
    results = json.loads(output.read_text())
    assert results["results"]["questions_of_a_file"]["exact_match,last_word"] == 1.0
    assert results["throughput"]["tokens_per_forward"] > 1
    assert results["throughput"]["tokens_per_second"] > 0
    assert results["config"]["model"] == "dlmcache"
    assert results["config"]["model_args"]["threshold"] == 0.9
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    assert len(rows) == 4 and {row["task"] for row in rows} == {"questions_of_a_file"}
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "questions_of_a_file.yaml", "results.json", "samples.jsonl",
    ]  # fmt: skip


def test_answers_and_choices_of_an_included_folder(capsys):
    tasks = ["--tasks", "tiny_*", "--include-path", str(EXAMPLES), "--limit", "3"]
    settings = ["--cache", "dual", "--block-length", "32", "--mc-num", "8", "--no-check-greedy"]
    assert main([*BASE, *tasks, *settings, "--json"]) == 0
    results = json.loads(capsys.readouterr().out)["results"]
    assert results["tiny_questions"]["exact_match,last_word"] == 1.0
    assert results["tiny_choices"]["acc,none"] == 1.0


def test_two_processes_give_the_results_of_one(tmp_path):
    # Warm, so that answers depend on the requests' own random numbers.
    tasks = ["--tasks", "tiny_questions", "--include-path", str(EXAMPLES), "--limit", "5"]
    call = [*BASE, *tasks, "--temperature", "0.5", "--output"]
    assert main([*call, str(tmp_path / "one.json")]) == 0
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    result = subprocess.run(
        [*launcher, "-m", "dlmcache_cuda", *call, str(tmp_path / "two.json")],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("|tiny_questions|") == 1
    one, two = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("one", "two"))
    assert one["results"] == two["results"] and one["n-samples"] == two["n-samples"]
    assert (one["throughput"]["processes"], two["throughput"]["processes"]) == (1, 2)
    # lm-eval repeats a request where shares differ in size: 5 documents are 3 and 2 + 1.
    assert (one["throughput"]["sequences"], two["throughput"]["sequences"]) == (5, 6)


@pytest.mark.parametrize("page", ["evaluation.md", "multi_gpu.md"])
def test_the_python_of_the_documents_runs(page, monkeypatch):
    monkeypatch.chdir(EXAMPLES.parents[1])
    blocks = re.findall(r"^```python\n(.*?)^```", Path("docs", page).read_text(), re.M | re.S)
    assert blocks
    for block in blocks:
        exec(compile(block, page, "exec"), {"__name__": "example"})


def test_lm_evals_own_command_line_knows_the_model(tmp_path, monkeypatch, capsys):
    import lm_eval.config.evaluate_config  # noqa: F401  (imports what the next line replaces)
    import lm_eval.tasks

    without_those_of_lm_eval(monkeypatch, lm_eval.tasks)
    call = ["lm-eval", "run", "--model", "dlmcache", "--limit", "1", "--output_path", str(tmp_path)]
    arguments = [
        "--model_args",
        "cache=dual,threshold=0.9",
        "--apply_chat_template",
        "--device=cpu",
    ]
    tasks = ["--tasks", "tiny_questions", "--include_path", str(EXAMPLES)]
    monkeypatch.setattr(sys, "argv", [*call, *arguments, *tasks])
    runpy.run_module("dlmcache_cuda.evaluation", run_name="__main__")
    assert "exact_match" in capsys.readouterr().out
    (written,) = tmp_path.rglob("results_*.json")
    assert json.loads(written.read_text())["config"]["throughput"]["sequences"] == 1


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--tasks", "no_such_task", "--include-path", str(EXAMPLES)], "no task named no_such_tas"),
        (["--tasks", "missing.yaml"], "missing.yaml"),
        (["--tasks", ","], "tasks is empty"),
        (["--tasks", "x", "--include-path", "/no/such/folder"], "/no/such/folder is no folder"),
        (["--tasks", "x", "--limit", "0"], "--limit must be a number greater than 0"),
        (["--tasks", "x", "--output", "/no/such/folder/a.json"], "its folder does not exist"),
        (["--tasks", "x", "--gen-kwargs", "treshold=0.9"], "got treshold"),
        (["--tasks", "x", "--mc-num", "0"], "mc_num must be an integer >= 1"),
        (["--tasks", "x", "--cache", "magic"], "cache must be one of"),
        (["--tasks", "x", "--batch-size", "0"], "batch_size must be an integer >= 1"),
    ],
)
def test_wrong_use_is_one_line_and_code_2(arguments, message, capsys, monkeypatch):
    without_those_of_lm_eval(monkeypatch, run)
    assert main(["eval", "--device", "cpu", *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in error and error.startswith("dlmcache: error: ")


def test_without_lm_eval_the_extra_is_named(capsys, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("dlmcache_cuda.evaluation")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.delattr("dlmcache_cuda.evaluation", raising=False)
    assert main(["eval", "--tasks", "x"]) == 1
    assert "pip install 'dlmcache_cuda[eval]'" in capsys.readouterr().err
