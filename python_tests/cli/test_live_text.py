"""Answers that are shown while they are decoded, on terminals and elsewhere."""

from __future__ import annotations

import builtins
import io
import re
import sys

import pytest

import dlmcache_cuda
from dlmcache_cuda.assets.questions import make_questions
from dlmcache_cuda.cli import live_text
from dlmcache_cuda.cli.main import main

QUESTION = make_questions(1, seed=5)[0].prompt
CHAT = [{"role": "user", "content": QUESTION}]
SETTINGS = {"gen_length": 96, "block_length": 32, "cache": "dual"}
DRAFT = "\x1b[2;3m"  # dim italic


@pytest.fixture(scope="module")
def model():
    return dlmcache_cuda.load(device="cpu")


@pytest.fixture(scope="module")
def expected(model) -> str:
    return dlmcache_cuda.decode(model, CHAT, **SETTINGS).text[0]


def as_terminal(monkeypatch, stdout) -> None:
    """Makes ``stdout`` one; from the test itself: pytest exchanges it after fixtures."""
    monkeypatch.setattr(stdout, "isatty", lambda: True, raising=False)
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "300")


def without_codes(text: str) -> str:
    return re.sub(r"\x1b\[[?0-9;]*[A-Za-z]", "", text)


def test_a_terminal_shows_the_draft_dim_and_ends_with_the_text(
    model, expected, capsys, monkeypatch
):
    as_terminal(monkeypatch, sys.stdout)
    monkeypatch.setattr(live_text, "SECONDS_PER_FRAME", 0.0)
    assert live_text.show_answer(model, CHAT, heading="Answer ", **SETTINGS) == expected
    out = capsys.readouterr().out
    frames = out.split("\x1b[2K")
    assert len(frames) > 20
    assert DRAFT in frames[1] and DRAFT not in frames[-1]
    assert without_codes(frames[-1]).strip() == f"Answer {expected}"
    assert out.rstrip().endswith("\x1b[?25h")  # the cursor is back


def test_frames_are_as_few_as_asked_for(model, capsys, monkeypatch):
    as_terminal(monkeypatch, sys.stdout)
    monkeypatch.setattr(live_text, "SECONDS_PER_FRAME", 1e9)
    live_text.show_answer(model, CHAT, **SETTINGS)
    assert capsys.readouterr().out.count("#1") <= 3  # the first, the last, and when it stops


@pytest.mark.parametrize("why", ["pipe", "dumb terminal", "no rich"])
def test_elsewhere_text_is_written_once_it_is_final(why, model, expected, monkeypatch):
    stdout = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stdout)
    if why != "pipe":
        as_terminal(monkeypatch, stdout)
    if why == "dumb terminal":
        monkeypatch.setenv("TERM", "dumb")
    if why == "no rich":
        imported = builtins.__import__

        def without_rich(name, *arguments, **options):
            if name.partition(".")[0] == "rich":
                raise ModuleNotFoundError("No module named 'rich'", name="rich")
            return imported(name, *arguments, **options)

        monkeypatch.setattr(builtins, "__import__", without_rich)
    written = []
    write = stdout.write
    monkeypatch.setattr(stdout, "write", lambda text: written.append(text) or write(text))
    live_text.show_answer(model, CHAT, heading="Answer ", **SETTINGS)
    assert stdout.getvalue() == f"Answer {expected}\n"
    assert len([text for text in written if text.strip()]) > 3  # in pieces


def test_drafts_are_not_asked_for_where_they_are_not_shown(model, monkeypatch, capsys):
    asked = []
    stream = dlmcache_cuda.stream

    def spied(*arguments, drafts, **settings):
        asked.append(drafts)
        return stream(*arguments, drafts=drafts, **settings)

    monkeypatch.setattr(dlmcache_cuda, "stream", spied)
    live_text.show_answer(model, CHAT, gen_length=8)
    assert asked == [False]


def test_chat_on_a_terminal_crystallises(expected, capsys, monkeypatch):
    as_terminal(monkeypatch, sys.stdout)
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{QUESTION}\n/exit\n"))
    options = ["--gen-length", "96", "--block-length", "32", "--cache", "dual"]
    assert main(["chat", *options]) == 0
    out = capsys.readouterr().out
    assert DRAFT in out and expected in without_codes(out)
