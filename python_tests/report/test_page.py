"""The trace page as text: what it holds, that it is closed, and what is refused."""

from __future__ import annotations

import base64
import copy
import json
import re
from html.parser import HTMLParser
from importlib.resources import files

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles.compare import random_prompts
from oracles.every_policy import CASES, config_of, model_of, options_of
from records import ranges_of, synthetic_record

import dlmcache_cuda
from dlmcache_cuda.report.packing import pack_numbers, pack_ranges
from dlmcache_cuda.report.page import SCRIPTS
from dlmcache_cuda.report.payload import page_payload


def small_record(**changes):
    return synthetic_record(layers=2, prompt=3, generated=8, steps=4) | changes


def unpack_ranges(packed: bytes) -> list[int]:
    """What ``web/unpack.js`` does."""
    at = 0

    def number() -> int:
        nonlocal at
        value, unit = 0, 1
        while True:
            byte = packed[at]
            at += 1
            value += (byte & 127) * unit
            unit *= 128
            if byte < 128:
                return value

    head = number()
    rows: list[int] = []
    if head & 1:
        first = number()
        bits = int.from_bytes(packed[at:], "little")
        assert len(packed) - at == head >> 1
        return [first + n for n in range(bits.bit_length()) if bits >> n & 1]
    row = 0
    for _ in range(head >> 1):
        row += number()
        count = number()
        rows += range(row, row + count)
        row += count
    assert at == len(packed)
    return rows


@given(st.sets(st.integers(0, 700)))
def test_packed_rows_are_the_rows(positions):
    rows = sorted(positions)
    packed = pack_ranges(ranges_of(rows))
    assert unpack_ranges(packed) == rows
    if rows:
        assert len(packed) <= (rows[-1] - rows[0]) // 8 + 5


@pytest.mark.parametrize(("largest", "size"), [(0, 1), (255, 1), (256, 2), (65535, 2), (65536, 4)])
def test_numbers_take_the_bytes_they_need(largest, size):
    packed = pack_numbers([3, largest])
    words = base64.b64decode(packed["data"])
    assert (packed["bytes"], len(words)) == (size, 2 * size)
    assert int.from_bytes(words[size:], "little") == largest


class Outline(HTMLParser):
    """Tags with attributes, and the text of the record."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.scripts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        if self.tags and self.tags[-1][0] == "script":
            self.scripts.append(data)


def test_the_page_is_closed():
    page = dlmcache_cuda.trace_page(small_record())
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\(|fetch\(|XMLHttp|innerHTML|eval\(", page)
    outline = Outline(page)
    for tag, attributes in outline.tags:
        assert "src" not in attributes and tag not in ("iframe", "object", "embed", "base", "form")
        assert attributes.get("href", "data:,") == "data:,"
    policy = next(a["content"] for _, a in outline.tags if "http-equiv" in a)
    assert policy.startswith("default-src 'none';")
    assert "%%" not in page


def test_all_parts_of_the_page_are_used():
    parts = {entry.name for entry in files("dlmcache_cuda.report").joinpath("web").iterdir()}
    assert parts == {"page.html", "page.css", *SCRIPTS}


def test_text_of_models_and_prompts_is_never_markup():
    evil = "</script><script>alert(1)</script><!--<img src=x onerror=alert(2)>\u2028\ud800 &amp;"
    record = small_record()
    trace = record["trace"]
    trace["model"] = trace["cache"] = evil
    trace["settings"] = {evil: evil}
    trace["pieces"] = dict.fromkeys(trace["pieces"], evil)
    page = dlmcache_cuda.trace_page(record)
    page.encode("utf-8")
    outline = Outline(page)
    assert [tag for tag, _ in outline.tags].count("script") == 2
    assert "img" not in [tag for tag, _ in outline.tags]
    data = json.loads(outline.scripts[0])
    assert data["model"] == evil and evil in data["pieces"]


@pytest.mark.parametrize(("family", "name"), CASES)
def test_every_policy_makes_a_page(family, name):
    options = options_of(name, gen_length=24, cache=config_of(name), seed=3, block_length=8)
    out = dlmcache_cuda.decode(model_of(family), random_prompts(3, [9, 4]), trace=True, **options)
    saved = json.loads(json.dumps(out.to_dict()))
    for number, sequence in enumerate(out.sequences):
        page = dlmcache_cuda.trace_page(out, sequence=number)
        assert page == dlmcache_cuda.trace_page(sequence)
        assert page == dlmcache_cuda.trace_page(saved, sequence=number)
        data = json.loads(Outline(page).scripts[0])
        assert len(data["steps"]) == sequence.forwards
        assert data["rows_computed"] == sequence.rows_computed


def test_a_long_run_of_a_deep_model_stays_small():
    """The hardest case: no row set like another. Twice as many steps, one per token, still fit."""
    record = synthetic_record(layers=32, prompt=512, generated=512, steps=256)
    data = json.dumps(page_payload(record), separators=(",", ":"))
    overhead = len(dlmcache_cuda.trace_page(small_record()))
    assert len(data) + overhead < 2.5 * 2**20


def changed(path: str, value):
    record = small_record()
    *parents, last = path.split(".")
    entry = record
    for name in parents:
        entry = entry[int(name) if name.isdecimal() else name]
    entry[int(last) if last.isdecimal() else last] = value
    return record


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("trace", None, "no trace: decode with trace=True"),
        ("trace.version", 2, "trace.version must be 1, got 2"),
        ("trace.steps", [], "trace.steps must be a list of 4 steps"),
        ("trace.n_layers", 3, "trace.budgets must be a list of 3 entries"),
        ("trace.steps.0.rows", [], r"trace.steps\[0\].rows must be a list of 2 entries"),
        ("trace.steps.1.rows.0", [[0, 12]], r"rows\[0\] must hold integers in \[0, 12\), got 12"),
        ("trace.steps.1.rows.0", [[4, 5], [5, 6]], "must hold ascending ranges apart"),
        ("trace.steps.2.reason", "<b>", r"steps\[2\].reason must be one of"),
        ("trace.steps.2.predicted", [1], r"steps\[2\].predicted must be a list of"),
        ("trace.steps.2.written", ["x"], r"steps\[2\].written must hold integers"),
        ("trace.steps.0.similarity", [1, "x"], r"similarity must hold numbers or null, got 'x'"),
        ("trace.steps.0.importance", [1.0], r"importance must be a list of 11 entries"),
        ("trace.pieces", {"x": "y"}, "trace.pieces must be texts by token id"),
        ("trace.model", 3, "trace.model must be a text, got 3"),
        ("given", [False] * 7, "given must be a list of 8 entries"),
        ("given", [0] * 8, "given must hold true and false"),
        ("commit_step", [0], "commit_step must be a list of 8 entries"),
        ("forwards", 5, "trace.steps must be a list of 5 steps"),
        ("rows_computed", None, "rows_computed must hold integers"),
    ],
)
def test_a_record_that_does_not_fit_is_refused(path, value, message):
    with pytest.raises(ValueError, match=message):
        dlmcache_cuda.trace_page(changed(path, value))


def test_wrong_arguments_are_refused():
    record = small_record()
    with pytest.raises(TypeError, match="trace_page needs a DecodeOutput.*got str"):
        dlmcache_cuda.trace_page("trace.json")
    with pytest.raises(ValueError, match=r"sequence must be in \[0, 1\).*got 1"):
        dlmcache_cuda.trace_page(record, sequence=1)
    with pytest.raises(TypeError, match="sequence must be an integer"):
        dlmcache_cuda.trace_page(record, sequence=True)
    with pytest.raises(ValueError, match="no trace: decode with trace=True"):
        dlmcache_cuda.trace_page(dlmcache_cuda.decode(model_of("llada"), random_prompts(1, [2])))
    before = copy.deepcopy(record)
    dlmcache_cuda.trace_page(record)
    assert record == before
