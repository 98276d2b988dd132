"""Runs that are interrupted go on; what comes out is right, and is put where it belongs."""

from __future__ import annotations

import dataclasses
import json
import subprocess

import pytest

from dlmcache_cuda.benchmark.figures import draw_all, pareto
from dlmcache_cuda.benchmark.models import BUNDLED
from dlmcache_cuda.benchmark.peak import peak_of
from dlmcache_cuda.benchmark.results import Result, Spread, results_of
from dlmcache_cuda.benchmark.row import STOCK, Row, Workload
from dlmcache_cuda.benchmark.runner import MEMORY, TIME, Silent
from dlmcache_cuda.benchmark.store import Store
from dlmcache_cuda.benchmark.tables import number, put_into, spread, table
from dlmcache_cuda.benchmark.targets import (
    batch_targets,
    best_cache_target,
    memory_targets,
    speed_up_targets,
    stock_targets,
)


def rows_of(workload: Workload) -> list[Row]:
    vanilla = Row(workload, block_length=8)
    return [vanilla, dataclasses.replace(vanilla, engine=STOCK), Row(workload, "dual", {}, 8)]


class Interrupting(Silent):
    """Ends the run after so many measurements."""

    def __init__(self, after: int) -> None:
        self.left = after

    def done(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


def test_an_interrupted_run_goes_on_where_it_was(run, workload, out, tmp_path):
    rows = rows_of(workload)
    runner = run(rows, repeats=0)
    runner = type(runner)(rows, dataclasses.replace(runner.options, repeats=2), runner.store)
    runner.reporter = Interrupting(after=4)
    with pytest.raises(KeyboardInterrupt):
        runner.run()
    lines = runner.store.path.read_text().splitlines()
    assert [json.loads(line)["number"] for line in lines] == [0, 0, 0, 1], "round by round"
    with runner.store.path.open("a") as file:
        file.write('{"half a')  # as if it had been killed while writing
    again = run(rows, repeats=2)
    after = again.store.path.read_text().splitlines()
    assert after[:4] == lines and len(after) == 6
    assert again.left == 0
    assert run(rows, repeats=2).store.path.read_text().splitlines() == after


def test_other_sources_are_not_mixed_in(tmp_path):
    path = tmp_path / "r.jsonl"
    Store(path, "old").add(TIME, "row", 0, record(1.0))
    store = Store(path, "new")
    assert store.get(TIME, "row") is None and store.others == 1
    store.add(TIME, "row", 0, record(2.0))
    assert Store(path, "new").get(TIME, "row")["seconds"] == 2.0
    assert Store(path, "old").get(TIME, "row")["seconds"] == 1.0


def test_results_compare_with_vanilla_of_the_same_round(run, workload):
    rows = rows_of(workload)
    store = run(rows, repeats=2).store
    vanilla, stock, dual = results_of(rows, store)
    speeds = [[16 * 2 / store.get(TIME, row.key, n)["seconds"] for n in range(2)] for row in rows]
    ratios = [a / b for a, b in zip(speeds[2], speeds[0], strict=True)]
    assert dual.speed_up == Spread.of(ratios)
    assert vanilla.speed_up == Spread(1, 1, 1)
    assert stock.same_tokens is True
    assert vanilla.rows == 1 and dual.rows < 1 and dual.forward_rows == pytest.approx(dual.rows)
    assert dual.row_ceiling == 1 / dual.rows
    assert 0 < dual.refresh_share < 1 and vanilla.refresh_share is None
    assert dual.tokens_per_forward == 1
    text = table([vanilla, stock, dual])
    assert len({line.count("|") for line in text.splitlines()}) == 1
    assert "stock transformers" in text and "in refreshes" in text and "right" not in text
    json.dumps([result.to_dict() for result in (vanilla, stock, dual)])


def test_vanilla_of_a_few_forwards_is_continued(run, workload):
    whole = Row(workload, block_length=8)
    part = dataclasses.replace(whole, limit=4)
    (result,) = results_of([part], run([part]).store)
    (expected,) = results_of([whole], run([whole]).store)
    assert (result.measured_forwards, result.forwards) == (4, 16)
    same = ("sequence_forwards", "visible_tokens", "forward_rows")
    assert [getattr(result, n) for n in same] == [getattr(expected, n) for n in same]
    assert result.seconds.median == pytest.approx(16 * result.forward_seconds.median)


def test_the_fastest_vanilla_is_the_baseline(workload, tmp_path):
    slow, fast, cached = (
        Row(workload, block_length=8), Row(workload), Row(workload, "dual", {}, 8)
    )  # fmt: skip
    store = Store(tmp_path / "r.jsonl", "x")
    for row, seconds in ((slow, 4.0), (fast, 2.0), (cached, 1.0)):
        store.add(TIME, row.key, 0, record(seconds))
    assert results_of([slow, fast, cached], store)[2].speed_up.median == 2


def record(seconds: float) -> dict:
    return {
        "seconds": seconds, "cpu_seconds": seconds, "forwards": 4, "sequence_forwards": 4,
        "visible_tokens": 32, "rows_computed": 8, "rows_vanilla": 8, "refresh_forwards": 1,
        "refresh_seconds": 0.1, "step_seconds": 1.0, "right": None, "digests": ["a", "b"],
        "phases": {}, "peak_bytes": None,
    }  # fmt: skip


def test_a_row_that_fails_is_told_and_tried_again(run, workload, monkeypatch):
    rows = rows_of(workload)[:1]
    runner = run(rows, repeats=0)
    runner = type(runner)(rows, dataclasses.replace(runner.options, repeats=1), runner.store)

    def fail(*_args, **_keywords):
        raise MemoryError("too little")

    monkeypatch.setattr(runner.subject(rows[0]), "measure", fail)
    runner.run()
    (result,) = results_of(rows, runner.store)
    assert result.failed == "MemoryError: too little" and "failed: MemoryError" in table([result])
    (result,) = results_of(rows, run(rows, repeats=1).store)
    assert result.failed is None and result.timed


def test_the_peak_of_a_row_is_measured_in_a_process_of_its_own(out):
    """The widest step's temporaries are tens of megabytes here: those of the process are few."""
    workload = Workload("random:2x64:vocab=96", "random", 4, 4, 32, 1500, early_stop=False)
    found = peak_of(Row(workload, "elastic", {"gamma": -1.0}), out, None)
    assert "failed" not in found
    assert 0.5 < found["peak_bytes"] / found["predicted_bytes"] < 1.5


def test_a_peak_that_cannot_be_measured_says_why(out, workload, monkeypatch):
    ended = subprocess.CompletedProcess([], 1, "", "Traceback ...\nValueError: no such folder\n")
    monkeypatch.setattr(subprocess, "run", lambda *_args, **_keywords: ended)
    assert peak_of(Row(workload), out, None)["failed"].endswith("ValueError: no such folder")


def made(row: Row, **values) -> Result:
    spread_of = {
        name: Spread(values.pop(name), 0.01, 99)
        for name in ("speed_up", "same_commits", "tokens_per_second")
        if name in values
    }
    return Result(row, 1, seconds=Spread(1, 1, 1), **spread_of, **values)


def test_targets_are_met_or_not():
    asked = Workload(BUNDLED, "questions", 100, 1, 96)
    vanilla = made(Row(asked), speed_up=1, right=100)
    exact = made(Row(asked, "dual", commits=None, threshold=0.9), speed_up=9, right=100)
    lossy = made(Row(asked, "spa", commits=None, threshold=0.6), speed_up=20, right=99)
    target = best_cache_target([vanilla, exact, lossy], speed_up=8, loss=0.01)
    assert target.met and "9x" in target.measured and "dual" in target.note
    assert not best_cache_target([vanilla, exact, lossy], speed_up=10, loss=0.01).met
    assert best_cache_target([vanilla, exact, lossy], speed_up=10, loss=0.02).met
    assert best_cache_target([], speed_up=8, loss=0.01).met is None

    drawn = Workload("random:12x512", "random", 1, 1, 256, 768, early_stop=False)
    greedy = made(Row(drawn, "dkv-greedy"), speed_up=1.9, rows=0.5)
    (target,) = speed_up_targets([greedy], {256: {"dkv-greedy": 6}}, {"dkv-greedy": "every 2"})
    assert not target.met and "6x is out of reach at this rate" in target.note
    assert "every 2" in target.note

    one = made(Row(asked, "dual"), tokens_per_second=10, digests=("a",))
    many = Row(dataclasses.replace(asked, batch_size=16), "dual")
    for tokens, digests, met in ((11, ("a",), True), (9, ("a",), False), (11, ("b",), False)):
        result = made(many, tokens_per_second=tokens, digests=digests)
        assert [t.met for t in batch_targets([one, result])] == [met]

    for peak, met in ((1.1, True), (1.11, False)):
        result = Result(Row(asked, "dual"), 0, peak_bytes=int(1e6 * peak), predicted_bytes=10**6)
        assert [t.met for t in memory_targets([result], slack=0.1)] == [met]

    for gain, same, met in ((0.9, True, True), (1.1, True, False), (0.9, False, False)):
        result = made(Row(asked, engine=STOCK), same_commits=gain, same_tokens=same)
        assert [t.met for t in stock_targets([result])] == [met]


def test_figures_are_drawn_from_what_there_is(run, workload, tmp_path):
    pytest.importorskip("matplotlib")
    other = dataclasses.replace(workload, gen_length=24)
    rows = rows_of(workload) + rows_of(other)
    drawn = draw_all(results_of(rows, run(rows).store), tmp_path)
    assert [path.name for path in drawn] == ["speed_up_by_length.svg", "time_by_rows.svg"]
    assert "<svg" in drawn[0].read_text()
    assert draw_all([], tmp_path) == []


def test_the_frontier_has_the_points_that_nothing_beats():
    points = [(1, 100), (2, 99), (2, 98), (3, 99), (4, 50), (3.5, 40)]
    assert pareto(points) == [(1, 100), (3, 99), (4, 50)]


def test_numbers():
    assert [number(x) for x in (1234.5, 12.345, 0.012345)] == ["1234", "12.3", "0.0123"]
    assert spread(Spread(2, 1, 3), "x") == "2x (1-3)" and spread(Spread(2, 2, 2), "x") == "2x"


def test_a_page_is_put_between_its_marks(tmp_path):
    page = tmp_path / "page.md"
    put_into(page, "speed", "first")
    page.write_text(f"above\n{page.read_text()}below\n<!-- bench stock -->\n")
    put_into(page, "speed", "second")
    text = page.read_text()
    assert "first" not in text and text.startswith("above\n<!-- bench speed -->\n\nsecond\n")
    assert text.endswith("<!-- end of bench speed -->\nbelow\n<!-- bench stock -->\n")
    for name in ("stock", "other"):
        with pytest.raises(ValueError, match="has no lines"):
            put_into(page, name, "x")
    assert page.read_text() == text


def test_memory_is_measured_where_it_is_asked_for(run, workload, monkeypatch):
    asked = []

    def peak(row, out, dtype):
        asked.append(row)
        return {"peak_bytes": 5, "predicted_bytes": 4}

    monkeypatch.setattr("dlmcache_cuda.benchmark.runner.peak_of", peak)
    rows = rows_of(workload)
    store = run(rows, memory=True, time=False).store
    assert asked == rows and store.get(TIME, rows[0].key) is None
    assert store.get(MEMORY, rows[0].key)["peak_bytes"] == 5
    result = results_of(rows, store)[0]
    assert (result.peak_bytes, result.predicted_bytes, result.timed) == (5, 4, False)
