"""The command line: main uses, wrong uses, exit codes, output formats."""

from __future__ import annotations

import dataclasses
import io
import json
import subprocess
import sys

import pytest

import dlmcache_cuda
from dlmcache_cuda.assets.questions import check_answer, make_questions
from dlmcache_cuda.cli.main import COMMANDS, main
from dlmcache_cuda.cli.options import cache_config
from dlmcache_cuda.policies.composed import ComposedConfig
from dlmcache_cuda.policies.dkv_greedy import DkvGreedyConfig
from dlmcache_cuda.policies.elastic import ElasticConfig
from dlmcache_cuda.policies.spa import SpaConfig

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
    assert facts["nvtx ranges"].startswith(("built", "on", "not built: "))
    assert main(["env"]) == 0
    assert "cuda devices" in capsys.readouterr().out


def test_decode_tells_the_predicted_memory_when_asked(capsys):
    assert main(["decode", QUESTION.prompt, "--chat", "--verbose", *FAST]) == 0
    captured = capsys.readouterr()
    assert captured.err.startswith("memory: weights ")
    assert "memory" not in captured.out


@pytest.mark.parametrize("options", [[], ["--weights", "fp8"]], ids=str)
def test_decode_answers_a_question(options, capsys):
    assert main(["decode", QUESTION.prompt, "--chat", *FAST, *options]) == 0
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


@pytest.mark.parametrize("name", list(dlmcache_cuda.available_policies()))
def test_every_setting_of_every_cache_can_be_given(name):
    default = dlmcache_cuda.available_policies()[name].Config()
    settings = [f"{key}={value}" for key, value in dataclasses.asdict(default).items()]
    assert cache_config(name, settings) == default


@pytest.mark.parametrize(
    "name, settings, config",
    [
        ("spa", ["layer_ratios=0.1,1/8, 1"], SpaConfig(layer_ratios=(0.1, 0.125, 1))),
        ("spa", ["layer_ratios=(0.1, 0.5)"], SpaConfig(layer_ratios=(0.1, 0.5))),
        ("spa", ["layer_ratios=0.5"], SpaConfig(layer_ratios=(0.5,))),
        ("spa", ["min_update_ratio=1/32"], SpaConfig(min_update_ratio=1 / 32)),
        (
            "spa",
            ["proxy_rank=64", "kv_rows=selected"],
            SpaConfig(proxy_rank=64, kv_rows="selected"),
        ),
        ("spa", ["early_stop_steps=8"], SpaConfig(early_stop_steps=8)),
        ("composed", ["gamma=None"], ComposedConfig(gamma=None)),
        ("composed", ["max_update_ratio=none"], ComposedConfig(max_update_ratio=None)),
        ("elastic", ["eos_cut=false", "block_caching=True"], ElasticConfig(eos_cut=False)),
        ("elastic", ["gamma=-1", "similarity=rows"], ElasticConfig(gamma=-1, similarity="rows")),
        ("dkv-greedy", ["window_center=previous"], DkvGreedyConfig(window_center="previous")),
    ],
)
def test_settings_are_read_by_their_types(name, settings, config):
    read = cache_config(name, settings)
    assert read == config
    for field in dataclasses.fields(config):
        assert type(getattr(read, field.name)) is type(getattr(config, field.name))


@pytest.mark.parametrize("cache", list(dlmcache_cuda.available_policies()))
def test_every_cache_decodes_with_its_own_remasking(cache, capsys):
    options = ["--gen-length", "8", "--block-length", "4", "--cache", cache]
    assert main(["decode", QUESTION.prompt, "--chat", *options]) == 0
    assert "forwards" in capsys.readouterr().err


def test_help_and_env_name_all_caches(capsys):
    with pytest.raises(SystemExit):
        main(["decode", "--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert main(["env", "--json"]) == 0
    named = json.loads(capsys.readouterr().out)["caches"].split(", ")
    assert named == list(dlmcache_cuda.available_policies())
    # argparse may break a line behind a hyphen.
    assert all(name in shown or name.replace("-", "- ") in shown for name in named)


def test_presets_without_a_terminal_are_plain_lines(capsys):
    assert main(["presets", "gsai-ml/llada-8b-instruct", "--task", "GSM8K"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["cache", "settings", "decoding", "shots", "source"]
    (spa,) = [line for line in lines if line.startswith("spa ")]
    assert "early_stop_steps=8" in spa and "gen_length=256 block_length=8 steps=256" in spa
    assert "arXiv 2602.02544" in spa and "\x1b" not in spa


def test_presets_list_models_and_tasks(capsys):
    assert main(["presets"]) == 0
    out = capsys.readouterr().out
    assert "Dream-v0-Base-7B" in out and "dkv-prefill" in out and "mmlu_pro" in out
    assert main(["presets", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["model"] == "LLaDA-8B-Base"


def test_presets_print_json(capsys):
    assert main(["presets", "LLaDA-8B-Instruct", "--task", "mbpp", "--json"]) == 0
    rows = {row["cache"]: row for row in json.loads(capsys.readouterr().out)}
    assert rows["dkv-greedy"]["settings"] == {"window_length": 2}
    assert rows["spa"]["decoding"] == {"gen_length": 512, "block_length": 32, "steps": 512}


def test_presets_on_a_terminal_are_a_table(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert main(["presets", "LLaDA-1.5"]) == 0
    out = capsys.readouterr().out
    assert "LLaDA-1.5, any task" in out and "elastic" in out


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["presets", "gpt2"], "model_name must be one of LLaDA-8B-Base"),
        (["presets", "LLaDA-1.5", "--task", "gsm9k"], "Did you mean 'gsm8k'?"),
        (["presets", "--task", "gsm8k"], "--task needs a model"),
        (["decode", "hello", "--cache-arg", "refresh_steps=a", "--cache", "dual"], "got 'a'"),
        (["decode", "hello", "--cache-arg", "budget=1", "--cache", "spa"], "budget must be one of"),
        (
            ["decode", "hello", "--cache-arg", "layer_ratios=a", "--cache", "spa"],
            "layer_ratios must",
        ),
        (
            ["decode", "hello", "--cache", "dual", *["--cache-arg", "refresh_steps=2"] * 2],
            "refresh_steps is given twice",
        ),
        (["decode", "hello", "--cache", "magic"], "cache must be one of"),
        (["decode", "hello", "--cache-arg", "x=1"], "--cache-arg must be NAME=VALUE"),
        (["decode", "hello", "--gen-length", "0"], "gen_length must be an integer >= 1"),
        (["decode", "hello", "--block-length", "7"], "block_length must divide gen_length"),
        (["decode", "hello", "--weights", "int8"], "load: weights must be 'fp8' or None"),
        (["decode", "hello", "--threshold", "2"], "threshold must be a number in (0, 1]"),
        (["decode", "hello", "--model", "no/such/folder/here"], "no/such/folder/here"),
        (["decode", "hello", "--file", "also-a-file"], "not both"),
        (["decode", "--file", "missing.txt"], "missing.txt"),
        (["decode", "--file", "/"], "Is a directory"),
        (["eval", "--tasks", "x", "--limit", "nan"], "--limit must be a number greater than 0"),
        (["eval", "--tasks", "x", "--num-fewshot", "-1"], "--num-fewshot must be at least 0"),
        (["bench", "--threads", "99999999999"], "--threads must be at most 4096"),
        (["bench", "--seed", "99999999999999999999"], "--seed must be in [0, 2^63)"),
        (["decode", "  "], "the prompt is empty"),
        (["chat", "--block-length", "7"], "block_length must divide gen_length"),
        (["chat", "--seed", "-1"], "seed must be in"),
        (["demo", "--threshold", "3"], "--threshold must be in (0, 1], got 3"),
        (["demo", "--questions", "0"], "--questions must be at least 1"),
    ],
)
def test_wrong_use_is_one_line_and_code_2(arguments, message, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and "Traceback" not in error and error.startswith("dlmcache: error: ")


def test_a_file_of_prompts_that_is_no_text(tmp_path, capsys):
    path = tmp_path / "prompts.txt"
    path.write_bytes(b"a\xff\n")
    assert main(["verify", "--cache", "dual", "--file", str(path)]) == 2
    assert f"{path} is no UTF-8 text" in capsys.readouterr().err


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
    assert {result["cache"] for result in results} == set(dlmcache_cuda.available_policies())
    right = {(result["cache"], result["commits"]): result["right"] for result in results}
    # The others lose answers on this model, at one setting or the other: the README says which.
    for cache in ("none", "prefix", "dual", "dkv-decode", "dkv-pd", "dkv-prefill", "elastic"):
        assert right[cache, "1/step"] == right[cache, ">= 0.9"] == 2, cache
    dual = next(result for result in results if result["cache"] == "dual")
    assert dual["rows_relative"] < 0.5
    assert main(["demo", "--questions", "1"]) == 0
    table = capsys.readouterr().out
    assert "/forward" in table and "dual" in table and "\x1b" not in table
    assert table.index("Question  ") < table.index("Answer    #1") < table.index("cache ")
