"""What a step spends in operators: what is timed, counted and written."""

from __future__ import annotations

import json
import sys
import time

import pytest
import torch

from benchmarks import shares
from dlmcache_cuda import ops


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_measures_both_kinds_of_steps(monkeypatch, tmp_path, capsys):
    out = tmp_path / "shares.json"
    arguments = ["--policies", "none", "dual", "--sequences", "1", "--rounds", "1"]
    monkeypatch.setattr(sys, "argv", ["shares", *arguments, "--threads", "1", "--out", str(out)])
    shares.main()
    lines = json.loads(out.read_text())["lines"]
    kinds = [(line["method"].split(",")[0], line["steps"]) for line in lines]
    assert kinds == [("vanilla", "refresh"), ("dual", "cached"), ("dual", "refresh")]
    for line in lines:
        assert 0.2 < line["share_low"] <= line["share"] <= line["share_high"] < 1
        # Medians of a single round belong together.
        assert line["outside_ms"] == pytest.approx(line["ms"] * (1 - line["share"]))
    cached, refresh = lines[1:]
    assert cached["ms"] < refresh["ms"]
    assert "| dual, blocks: 32, 1 per step, batch 1 | cached | 1 |" in capsys.readouterr().out


def test_times_operators_and_products_alone():
    clock, x = shares.OperatorClock(), torch.ones(2, 3)
    with clock.running():
        time.sleep(0.02)
        assert clock.seconds == 0
        ops.gather_rows(x, torch.tensor([1]))
        operators = clock.seconds
        assert 0 < operators < 0.02
        torch.nn.functional.linear(x, x)
        assert clock.seconds > operators
    after = clock.seconds
    ops.gather_rows(x, torch.tensor([1]))
    torch.nn.functional.linear(x, x)
    assert clock.seconds == after


@pytest.mark.parametrize("wrong", ["--sequences", "--rounds", "--threads"])
def test_rejects(wrong, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["shares", wrong, "0"])
    with pytest.raises(SystemExit):
        shares.main()
    assert "must be at least 1, got 0" in capsys.readouterr().err
