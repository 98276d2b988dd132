r"""fill(): holes of texts; the bundled model knows what to put into some."""

from __future__ import annotations

import itertools
import json
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from oracles.compare import load_pair

import dlmcache_cuda
from dlmcache_cuda.cli.main import main
from dlmcache_cuda.decoding.template import parse_template
from dlmcache_cuda.testing.tiny_model import random_checkpoint

QUESTION = (
    "(a) axe finds pear . (b) drum marks tent . (c) gate holds jade . (d) wax sees fork . "
    "(e) tent takes map . (f) salt opens quay . (g) fork holds axe . (h) pear opens well . "
    "start drum steps 2 ?"
)
ANSWER = (
    "#1 by [MASK:1] : [MASK:3] so at tent . #2 by (e) : tent takes [MASK:1] so at [MASK:1] . "
    "#### [MASK:1]"
)
FILLED = "#1 by (b) : drum marks tent so at tent . #2 by (e) : tent takes map so at map . #### map"
HOLES = ["(b)", "drum marks tent", "map", "map", "map"]


def chat(answer: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": answer}]


@pytest.fixture(scope="module")
def model():
    return dlmcache_cuda.load()


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("def f(x):[MASK:32]return y", ["def f(x):", 32, "return y"]),
        ("[MASK:1]", [1]),
        ("[MASK:1][MASK:2] b\n[MASK:3]", [1, 2, " b\n", 3]),
        (r"\[MASK:3]", ["[MASK:3]"]),
        (r"a\\[MASK:3]", ["a\\", 3]),
        (r"a\\\[MASK:3]\b", ["a\\[MASK:3]\\b"]),
        (r"\[MASK] and \[MASK:x]", ["[MASK] and [MASK:x]"]),
        ("[MASKED] [mask:3] MASK:3] x[MASK", ["[MASKED] [mask:3] MASK:3] x[MASK"]),
        ("", []),
    ],
)
def test_templates(text, pieces):
    assert parse_template(text) == pieces


@pytest.mark.parametrize(
    "mark",
    ["[MASK]", "[MASK:]", "[MASK:0]", "[MASK:-1]", "[MASK: 3]", "[MASK:3.5]", "[MASK:three]",
     "[MASK:3", "[MASK:1\n2]", "[MASK:" + "9" * 400 + "]", "[MASK:\u0663]"],
)  # fmt: skip
def test_a_mark_that_is_no_hole_is_refused(mark):
    with pytest.raises(ValueError, match=r"text, line 2: '\[MASK.* is no hole; write \[MASK:n\]"):
        parse_template("a\n" + mark)


@given(st.lists(st.one_of(st.integers(1, 99), st.text("ab\\[]MASK:1 ", min_size=1)), max_size=6))
def test_any_text_can_be_escaped(drawn):
    pieces: list[str | int] = []
    for is_text, group in itertools.groupby(drawn, lambda piece: isinstance(piece, str)):
        group = list(group)
        pieces += ["".join(group)] if is_text else group
    text = ""
    for piece in pieces:
        if isinstance(piece, str):
            text += re.sub(r"(\\*)\[MASK(?=[\]:])", r"\1\1\\[MASK", piece)
        else:
            # Backslashes in front of a hole are halved, too.
            text += re.search(r"\\*$", text)[0] + f"[MASK:{piece}]"
    assert parse_template(text) == pieces


@pytest.mark.parametrize("cache", ["none", "dual", "elastic"])
def test_the_bundled_model_fills_an_answer(model, cache):
    out = dlmcache_cuda.fill(model, chat(ANSWER), cache=cache)
    assert out.text == [FILLED]
    assert out.holes == [HOLES]
    assert out.output.stats.visible_tokens == 7
    assert json.loads(json.dumps(out.to_dict()))["holes"] == [HOLES]


def test_several_texts_at_once(model):
    texts = [chat(ANSWER), "start drum [MASK:2] ?", chat("[MASK:30]")]
    out = dlmcache_cuda.fill(model, texts, batch_size=2, seed=1)
    assert out.text[0] == FILLED
    assert re.fullmatch(r"start drum .* \?", out.text[1])
    # A hole at the end may end early, with an end token.
    assert out.text[2] == FILLED


def test_an_end_token_ends_its_hole_only(tmp_path):
    """What stands behind it in the hole is dropped; given text is not."""
    end = 45  # a token that this model predicts now and then
    folder = random_checkpoint(tmp_path, 3, tokenizer=True)
    model = dlmcache_cuda.load(folder, dtype="float32", end_token_ids=[end])
    ended = 0
    for first in range(30):
        text = f"w{first} [MASK:8] w3 [MASK:6]"
        out = dlmcache_cuda.fill(model, text, stop_at_eos=False)
        sequence = out.output.sequences[0]
        hole, tail = sequence.ids[:8], sequence.ids[9:]
        for ids, filled in ((hole, out.holes[0][0]), (tail, out.holes[0][1])):
            kept = ids.tolist()
            if end in kept:
                kept = kept[: kept.index(end)]
                ended += 1
            # w0 is the unknown token, which is special like the mask.
            kept = [token for token in kept if token not in (0, model.mask_token_id)]
            assert filled == " ".join(f"w{token}" for token in kept)
        assert out.text[0] == f"w{first} {out.holes[0][0]} w3 {out.holes[0][1]}"
    assert ended > 0


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("no hole", ValueError, "text has no hole; write .MASK:n."),
        (["[MASK:2]", "none"], ValueError, r"text\[1\] has no hole"),
        ("a [MASK:2000] b", ValueError, "text has holes of 2000 tokens; max_sequence_length.* 512"),
        ("drum " * 500 + "[MASK:100]", ValueError, "text has 600 positions; max_sequence_length"),
        ("[MASK:1", ValueError, "is no hole"),
        ("[MASK:2] <|mdm_mask|>", ValueError, "text holds the mask token itself"),
        ([], ValueError, "text is empty"),
        (3, TypeError, "text must be a string with holes.*got int"),
        ([3], TypeError, r"text\[0\] must be a string or a chat, got int"),
        ([{"role": "user", "content": "[MASK:2]"}], ValueError, "must be the assistant's"),
        ([{"role": "user"}], ValueError, "needs 'role' and 'content'"),
        (chat("none"), ValueError, "text has no hole"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_texts(model, text, error, words):
    with pytest.raises(error, match=words):
        dlmcache_cuda.fill(model, text)


def test_bad_arguments(model):
    with pytest.raises(TypeError, match="fill takes no gen_length"):
        dlmcache_cuda.fill(model, "[MASK:2]", gen_length=3)
    with pytest.raises(TypeError, match="model must be what"):
        dlmcache_cuda.fill("model", "[MASK:2]")
    with pytest.raises(ValueError, match="threshold"):
        dlmcache_cuda.fill(model, "[MASK:2]", threshold=2)
    with pytest.raises(FileNotFoundError, match="no tokenizer"):
        dlmcache_cuda.fill(load_pair(1).model, "[MASK:2]")


def test_command(capsys, tmp_path, monkeypatch):
    assert main(["fill", "--question", QUESTION, ANSWER, "--block-length", "8"]) == 0
    printed = capsys.readouterr()
    assert printed.out == FILLED + "\n" and "7 tokens in" in printed.err
    assert main(["fill", "--question", QUESTION, ANSWER, "--holes", "--cache", "dual"]) == 0
    assert capsys.readouterr().out.splitlines() == HOLES
    file = tmp_path / "text"
    file.write_text("start [MASK:2] ?")
    assert main(["fill", "--file", str(file), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["text"][0].startswith("start ") and len(told["sequences"]) == 1
    for wrong in (["fill", "none"], ["fill", "[MASK:2]", "--file", str(file)]):
        assert main(wrong) == 2
        assert "dlmcache: error: " in capsys.readouterr().err


def test_holes_in_dream_need_a_token_before_them(tmp_path):
    folder = random_checkpoint(tmp_path, model_type="Dream", tokenizer=True)
    model = dlmcache_cuda.load(folder)
    with pytest.raises(ValueError, match=r"text\[1\] begins with a mask, but Dream"):
        dlmcache_cuda.fill(model, ["w1 [MASK:2]", "[MASK:2] w1"])
    out = dlmcache_cuda.fill(model, "w1 [MASK:2] w4")
    assert torch.equal(out.output.sequences[0].canvas_ids[[0, 3]], torch.tensor([1, 4]))
