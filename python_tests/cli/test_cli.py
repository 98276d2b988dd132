"""The command line: main uses, wrong uses, exit codes, output formats."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import pytest

from dlmcache_cuda.assets.questions import check_answer, make_questions
from dlmcache_cuda.cli.main import COMMANDS, main

QUESTION = make_questions(1, seed=5)[0]
FAST = ["--gen-length", "96", "--block-length", "32", "--threshold", "0.9", "--cache", "dual"]


def test_module_runs_as_a_program():
    result = subprocess.run(
        [sys.executable, "-m", "dlmcache_cuda", "--version"], capture_output=True, text=True
    )
    assert result.returncode == 0 and result.stdout.startswith("dlmcache_cuda ")


@pytest.mark.parametrize("command", [module.__name__.rpartition(".")[2] for module in COMMANDS])
def test_help_of_every_command(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert "usage: dlmcache " + command in capsys.readouterr().out


def test_without_a_command_the_usage_is_shown(capsys):
    with pytest.raises(SystemExit) as stopped:
        main([])
    assert stopped.value.code == 2
    assert "COMMAND" in capsys.readouterr().err


def test_env_names_versions_devices_and_reasons(capsys):
    assert main(["env", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["cpu operators run"] is True
    assert facts["cuda operators"].startswith(("built for", "not built: "))
    assert main(["env"]) == 0
    assert "cuda devices" in capsys.readouterr().out


def test_decode_answers_a_question(capsys):
    assert main(["decode", QUESTION.prompt, "--chat", *FAST]) == 0
    captured = capsys.readouterr()
    assert check_answer(QUESTION, captured.out.strip())
    assert "forwards" in captured.err


def test_decode_reads_files_and_standard_input(tmp_path, monkeypatch, capsys):
    file = tmp_path / "prompt.txt"
    file.write_text(QUESTION.prompt)
    assert main(["decode", "--file", str(file), "--chat", *FAST]) == 0
    from_file = capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", io.StringIO(QUESTION.prompt))
    assert main(["decode", "--chat", *FAST]) == 0
    assert capsys.readouterr().out == from_file


def test_decode_prints_json(capsys):
    assert main(["decode", QUESTION.prompt, "--chat", "--json", *FAST]) == 0
    out = json.loads(capsys.readouterr().out)
    sequence = out["sequences"][0]
    assert check_answer(QUESTION, sequence["text"])
    assert len(sequence["ids"]) == len(sequence["commit_step"]) == len(sequence["confidence"]) == 96
    assert out["stats"]["rows_computed"] < out["stats"]["rows_vanilla"]


def test_cache_settings_reach_the_policy(capsys):
    arguments = ["decode", QUESTION.prompt, "--chat", "--json", *FAST]
    assert main([*arguments, "--cache-arg", "refresh_steps=1"]) == 0
    stats = json.loads(capsys.readouterr().out)["stats"]
    assert stats["rows_computed"] == stats["rows_vanilla"]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["decode", "hello", "--cache", "magic"], "cache must be one of"),
        (["decode", "hello", "--cache-arg", "x=1"], "--cache-arg must be NAME=VALUE"),
        (["decode", "hello", "--gen-length", "0"], "gen_length must be an integer >= 1"),
        (["decode", "hello", "--block-length", "7"], "block_length must divide gen_length"),
        (["decode", "hello", "--threshold", "2"], "threshold must be a number in (0, 1]"),
        (["decode", "hello", "--model", "no/such/folder/here"], "no/such/folder/here"),
        (["decode", "hello", "--file", "also-a-file"], "not both"),
        (["decode", "--file", "missing.txt"], "missing.txt"),
        (["decode", "  "], "the prompt is empty"),
        (["demo", "--questions", "0"], "--questions must be at least 1"),
    ],
)
def test_wrong_use_is_one_line_and_code_2(arguments, message, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error and error.startswith("dlmcache: error: ")


def test_unknown_option_is_code_2(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["decode", "hello", "--no-such-option"])
    assert stopped.value.code == 2


def test_interrupt_is_code_130(monkeypatch, capsys):
    def interrupted(arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("dlmcache_cuda.cli.env.run", interrupted)
    assert main(["env"]) == 130
    assert "Traceback" not in capsys.readouterr().err


def test_chat_answers_line_by_line(monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{QUESTION.prompt}\n\n/reset\n/exit\n"))
    assert main(["chat", *FAST]) == 0
    answers = capsys.readouterr().out.strip().splitlines()
    assert check_answer(QUESTION, answers[-1])


def test_chat_survives_a_message_that_is_too_long(monkeypatch, capsys):
    long = "boat " * 600
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{long}\n{QUESTION.prompt}\n"))
    assert main(["chat", *FAST]) == 0
    captured = capsys.readouterr()
    assert "max_sequence_length" in captured.err
    assert check_answer(QUESTION, captured.out.strip().splitlines()[-1])


def test_demo_shows_every_cache_and_right_answers(capsys):
    assert main(["demo", "--questions", "2", "--json"]) == 0
    results = json.loads(capsys.readouterr().out)
    assert {result["cache"] for result in results} >= {"none", "prefix", "dual"}
    assert all(result["right"] == 2 for result in results)
    dual = next(result for result in results if result["cache"] == "dual")
    assert dual["rows_relative"] < 0.5
    assert main(["demo", "--questions", "1"]) == 0
    table = capsys.readouterr().out
    assert "per forward" in table and "dual" in table and "Question" in table
