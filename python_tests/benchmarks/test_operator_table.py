"""python -m benchmarks.run: its table, and shares of the bounds."""

from __future__ import annotations

import json
import sys

import pytest

from benchmarks import run

MACHINE = {"copy_gb_per_s": 20.0, "gemm_gflop_per_s": 100.0}


@pytest.mark.parametrize(
    ("gb", "gflop", "share"), [(10.0, 1.0, 0.5), (1.0, 80.0, 0.8), (50.0, 0.0, 2.5)]
)
def test_the_nearer_bound_counts(gb, gflop, share):
    result = {"gb_per_s": gb, "gflop_per_s": gflop}
    assert run.share_of_bound(result, MACHINE) == pytest.approx(share)


def test_writes_what_it_prints(monkeypatch, tmp_path, capsys):
    call = ["run", "--device", "cpu", "--filter", "uniform_rows 32", "--budget", "0.01"]
    monkeypatch.setattr(run, "gemm_rate", lambda _: 100.0)
    monkeypatch.setattr(sys, "argv", [*call, "--out", str(tmp_path)])
    run.main()
    said, page = capsys.readouterr().out, (tmp_path / "ops.md").read_text()
    found = json.loads((tmp_path / "ops.json").read_text())
    (result,) = found["results"]
    assert 0 < result["share_of_bound"] == run.share_of_bound(result, found["machine"])
    (line,) = [line for line in page.splitlines() if line.startswith("| uniform_rows")]
    assert line in said and f"{100 * result['share_of_bound']:.0f} %" in line
    assert "gemm_gflop_per_s: 100.0" in page and "build" not in page
