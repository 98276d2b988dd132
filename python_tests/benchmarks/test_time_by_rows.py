"""The time of a step against its rows: on a tiny model, what is counted and written."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks import rows


def test_measures_steps_of_exactly_so_many_rows(monkeypatch, tmp_path, capsys):
    out = tmp_path / "rows.json"
    arguments = ["--model", "random:2x64:vocab=256", "--canvas", "64", "--rounds", "2"]
    monkeypatch.setattr(sys, "argv", ["rows", *arguments, "--out", str(out)])
    rows.main()
    written = json.loads(out.read_text())
    assert written["header"]["model"] == "random:2x64:vocab=256"
    lines = {line["n"]: line for line in written["lines"]}
    assert list(lines) == [1, 2, 4, 8, 16, 32]
    for n, line in lines.items():
        assert line["rows"] == 64 // n  # counted by the decoder, not taken from the setting
        assert 0 < line["times_n_low"] <= line["times_n"] <= line["times_n_high"]
        assert 0 < sum(line["phases_ms"].values()) <= 1.2 * line["ms"]
    assert lines[1]["times_n"] == lines[1]["cpu_times_n"] == 1
    printed = capsys.readouterr().out
    assert all(f"\n| {64 // n} | " in printed for n in lines) and "/ 32 |" in printed


@pytest.mark.parametrize("wrong", [["--canvas", "100"], ["--canvas", "0"], ["--rounds", "0"]])
def test_rejects(wrong, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["rows", *wrong])
    with pytest.raises(SystemExit):
        rows.main()
    assert "must be" in capsys.readouterr().err
