"""dlmcache verify and calibrate, and calibrated files as --cache of the others."""

from __future__ import annotations

import io
import json
import sys

import pytest

from dlmcache_cuda.cli.main import main
from dlmcache_cuda.cli.progress import progress_bar
from dlmcache_cuda.testing.tiny_model import random_checkpoint
from dlmcache_cuda.tuning.table import TextTable


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A random model: quick, with words w0, w1, ... for its ids."""
    return str(random_checkpoint(tmp_path_factory.mktemp("model") / "tiny", 2, tokenizer=True))


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    out, error = capsys.readouterr()
    return code, out, error


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_shown_to_who_looks(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress_bar("prompts") as report:
        report("vanilla [1]", 0, 8)
        report("vanilla [1]", 5, 8)
    assert "vanilla [1]" in terminal.getvalue() and "5/8 prompts" in terminal.getvalue()
    monkeypatch.setattr("sys.stderr", io.StringIO())
    with progress_bar("prompts") as report:
        assert report is None


def test_tables_are_drawn_on_a_terminal(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    table = TextTable("title", ["name", "share"], [["[a]", "1 %"], ["b", "20 %"]], ["[note]"])
    table.show()
    assert all(text in terminal.getvalue() for text in ("title", "[a]", "20 %", "[note]"))
    monkeypatch.setitem(sys.modules, "rich.table", None)
    monkeypatch.setattr("sys.stdout", io.StringIO())
    table.show()
    assert sys.stdout.getvalue() == f"{table}\n"


def test_verify_prints_a_table(capsys, checkpoint):
    code, out, _ = run(
        capsys, "verify", "--model", checkpoint, "--prompt", "w3 w4", "--prompt", "w5",
        "--gen-length", 8, "--cache", "dual", "--block-length", 4, "--repeats", 1,
    )  # fmt: skip
    assert code == 0
    assert "dual against no cache" in out and "KL(vanilla || cached)" in out and "speed:" in out
    assert [line.split()[0] for line in out.splitlines()[3:5]] == ["0", "1"]


def test_verify_reads_files_and_prints_json(capsys, checkpoint, tmp_path):
    lines = ['"w3 w4"', '{"prompt": "w5"}', '[{"role": "user", "content": "w6"}]', "",
             '{"messages": [{"role": "user", "content": "w6"}]}']  # fmt: skip
    (tmp_path / "p.jsonl").write_text("\n".join(lines))
    (tmp_path / "p.txt").write_text("w3 w4\n\nw5\n")
    common = [
        "--gen-length",
        4,
        "--cache",
        "dkv-prefill",
        "--repeats",
        0,
        "--json",
        "--model",
        checkpoint,
    ]
    code, out, _ = run(capsys, "verify", "--file", tmp_path / "p.jsonl", *common)
    data = json.loads(out)
    assert code == 0 and data["prompts"] == 4 and data["speed_up"] is None
    # A chat and the object that holds it are one prompt.
    one, other = data["sequences"][2:]
    assert one["text"] == other["text"]
    code, out, _ = run(capsys, "verify", "--file", tmp_path / "p.txt", *common)
    assert json.loads(out)["prompts"] == 2


def test_verify_fails_below_the_agreement_asked_for(capsys, checkpoint):
    arguments = ["verify", "--model", checkpoint, "--prompt", "w3 w4 w9", "--gen-length", 24,
                 "--cache", "dllm", "--cache-arg", "transfer_ratio=0", "--cache-arg",
                 "gen_interval_steps=50", "--repeats", 0]  # fmt: skip
    code, out, _ = run(capsys, *arguments, "--json")
    agreement = json.loads(out)["agreement"]
    assert code == 0 and agreement < 1
    code, _, error = run(capsys, *arguments, "--min-agreement", 1)
    assert code == 1 and "is below --min-agreement 1" in error


def test_calibrate_writes_a_file_that_the_others_take(capsys, checkpoint, tmp_path):
    out_file, state = tmp_path / "c.json", tmp_path / "state.jsonl"
    (tmp_path / "p.txt").write_text("w3 w4\nw5\nw6 w7 w8\nw9\n")
    arguments = [
        "calibrate", "--model", checkpoint, "--file", tmp_path / "p.txt", "--gen-length", 8,
        "--cache", "dual", "--target", 0.2, "--confidence", 0.5, "--out", out_file,
        "--state", state, "--try", "refresh_steps=none,2", "--try-block-length", 4, 8,
    ]  # fmt: skip
    code, out, error = run(capsys, *arguments)
    assert code == 0 and f"written: {out_file}" in error
    assert "dual on tiny: agreement of 0.2" in out and "chosen" in out
    written = out_file.read_text()
    code, out, _ = run(capsys, *arguments, "--json")
    assert code == 0 and json.loads(out)["forwards"] == 0 and out_file.read_text() == written
    block_length = json.loads(written)["decode"]["block_length"]
    code, out, _ = run(
        capsys, "verify", "--model", checkpoint, "--prompt", "w3", "--gen-length", 8,
        "--cache", out_file, "--json", "--repeats", 0,
    )  # fmt: skip
    assert json.loads(out)["settings"].get("block_length", 8) == block_length
    code, out, _ = run(
        capsys, "decode", "w3", "--model", checkpoint, "--gen-length", 8, "--cache", out_file,
        "--cache-arg", "refresh_steps=1", "--json",
    )  # fmt: skip
    stats = json.loads(out)["stats"]
    assert code == 0 and stats["rows_computed"] == stats["rows_vanilla"]


def test_calibrate_says_when_nothing_holds(capsys, checkpoint, tmp_path):
    (tmp_path / "p.txt").write_text("w3 w4 w9\nw5\nw6 w7 w8\nw9\n")
    code, out, error = run(
        capsys, "calibrate", "--model", checkpoint, "--file", tmp_path / "p.txt",
        "--gen-length", 24, "--cache", "dllm", "--target", 0.95, "--confidence", 0.5,
        "--try", "transfer_ratio=0", "--try", "gen_interval_steps=50,40", "--out",
        tmp_path / "c.json",
    )  # fmt: skip
    assert code == 1 and "no settings of 'dllm' keep agreement at 0.95" in error
    assert "hopeless" in out and not (tmp_path / "c.json").exists()


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["verify"], "--cache: name the cache"),
        (["verify", "--cache", "dual", "--questions", "0"], "--questions must be at least 1"),
        (["verify", "--cache", "dual", "--model", "x"], "no prompts: give --prompt or --file"),
        (["verify", "--cache", "dual", "--prompt", " "], "prompt 1 is empty"),
        (["verify", "--cache", "dual", "--min-agreement", "2"], "--min-agreement must be in"),
        (["verify", "--cache", "x.json"], "there is no file 'x.json'"),
        (["calibrate", "--cache", "dual", "--out", "x.txt"], "--out must end in .json"),
        (["calibrate", "--cache", "dual", "--out", "/none/x.json"], "there is no folder '/none'"),
        (["calibrate", "--cache", "dual", "--try", "gamma=1"], "a setting of 'dual'"),
        (["calibrate", "--cache", "dual", "--try", "gamma"], "--try must be NAME=VALUE"),
        (["calibrate", "--cache", "dual", "--prompt", "a", "--correct"], "--correct needs"),
    ],
)
def test_wrong_use_is_explained(capsys, arguments, message):
    code, _, error = run(capsys, *arguments)
    assert code == 2 and message in error


@pytest.mark.parametrize(
    "name, text, message",
    [
        ("p.jsonl", "{", "p.jsonl, line 1: not JSON"),
        ("p.jsonl", '"a"\n{"text": "b"}', "p.jsonl, line 2: must be a text, a chat, or an object"),
        ("p.jsonl", '{"prompt": "a", "messages": []}', "line 1: must be"),
        ("p.txt", "\n", "p.txt holds no prompts"),
    ],
)
def test_wrong_prompt_files_are_explained(capsys, tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    code, _, error = run(capsys, "verify", "--cache", "dual", "--file", tmp_path / name)
    assert code == 2 and message in error
