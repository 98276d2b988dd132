"""dlmcache trace: what it writes, and what it refuses before it decodes."""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

import dlmcache_cuda
from dlmcache_cuda.cli import trace
from dlmcache_cuda.cli.main import main

RUN = ["trace", "--gen-length", "16", "--cache", "dual", "--block-length", "8"]


def test_writes_a_page(tmp_path, capsys):
    path = tmp_path / "page.html"
    assert main([*RUN, "Q: a b", "--chat", "--output", str(path)]) == 0
    captured = capsys.readouterr()
    assert captured.out == "" and str(path) in captured.err
    page = path.read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>") and "dual on tiny_llada" in page
    assert [entry.name for entry in tmp_path.iterdir()] == ["page.html"]


def test_the_page_is_trace_html_by_default(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*RUN, "Q: a b"]) == 0
    assert [entry.name for entry in tmp_path.iterdir()] == ["trace.html"]


def test_a_saved_record_makes_the_same_page(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main([*RUN, "Q: a b", "--json"]) == 0
    text = capsys.readouterr().out
    assert not list(tmp_path.iterdir())
    (tmp_path / "saved.json").write_text(text, encoding="utf-8")
    monkeypatch.setattr(trace, "load_model", lambda arguments: pytest.fail("decoded"))
    assert main(["trace", "--from", "saved.json", "--output", "page.html"]) == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page == dlmcache_cuda.trace_page(json.loads(text))


def test_a_pipe_and_a_link_stay_what_they_are(tmp_path, capsys):
    path, link, pipe = (tmp_path / name for name in ("page.html", "link.html", "pipe"))
    link.symlink_to(path)
    assert main([*RUN, "Q: a b", "--output", str(link)]) == 0
    assert link.is_symlink() and path.read_text(encoding="utf-8").startswith("<!doctype html>")
    os.mkfifo(pipe)
    with ThreadPoolExecutor(1) as reader:
        text = reader.submit(pipe.read_text, encoding="utf-8")
        assert main([*RUN, "Q: a b", "--output", str(pipe)]) == 0
        assert text.result(10) == path.read_text(encoding="utf-8")
    assert pipe.is_fifo()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["x", "--output", "missing/page.html"], "there is no folder missing"),
        (["x", "--output", "."], "--output must be a file, . is a folder"),
        (["x", "--from", "saved.json"], "leave out the prompt and --file"),
        (["--from", "missing.json"], "missing.json"),
        (["--from", "broken.json"], "broken.json is not the JSON of a trace"),
        (["--from", "other.json"], "the output has no trace: decode with trace=True"),
        (["x", "--sequence", "1"], "--sequence needs --from"),
        (["x", "--cache-arg", "gamma=1"], "--cache-arg must be NAME=VALUE"),
        ([""], "the prompt is empty"),
    ],
)
def test_wrong_use_is_refused_and_writes_nothing(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trace, "load_model", lambda arguments: pytest.fail("decoded"))
    (tmp_path / "broken.json").write_text("<html>")
    (tmp_path / "other.json").write_text('{"sequences": [{"trace": null}]}')
    assert main([*RUN, *arguments]) == 2
    assert message in capsys.readouterr().err
    assert {entry.name for entry in tmp_path.iterdir()} == {"broken.json", "other.json"}
