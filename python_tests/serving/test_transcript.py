"""What is final of a text, where it stops, how many tokens it has."""

from __future__ import annotations

import pytest

from dlmcache_cuda.serving.transcript import TranscriptWriter

END = 0


def spell(ids) -> str:
    """Token 1 is a, 2 is b, ...; 30 is the first half of an e with an accent, 31 the second."""
    letters = [{30: b"\xc3", 31: b"\xa9"}.get(i, bytes([96 + i])) for i in ids]
    return b"".join(letters).decode(errors="replace")


def writer(max_tokens: int = 100, stop=()) -> TranscriptWriter:
    return TranscriptWriter(spell, (END,), max_tokens, stop)


def test_text_grows_until_an_end_token():
    write = writer()
    assert write.update([1]).text == "a"
    assert write.update([1, 2]).finish_reason is None
    last = write.update([1, 2, END, 3])
    assert (last.text, last.num_tokens, last.finish_reason) == ("ab", 2, "stop")
    assert write.update([1, 2, END, 3, 4]) == last


def test_text_is_cut_at_max_tokens():
    last = writer(max_tokens=3).update([1, 2, 3, 4])
    assert (last.text, last.num_tokens, last.finish_reason) == ("abc", 3, "length")


def test_end_token_behind_max_tokens_changes_nothing():
    assert writer(max_tokens=2).update([1, 2, 3, END]).finish_reason == "length"


def test_sequence_that_ends_without_an_end_token_has_reason_length():
    last = writer().update([1, 2], over=True)
    assert (last.text, last.finish_reason) == ("ab", "length")


def test_halves_of_characters_are_held_back():
    write = writer()
    assert write.update([1, 30]).text == "a"
    assert write.update([1, 30, 31]).text == "a\u00e9"


def test_half_a_character_is_shown_when_nothing_follows():
    assert writer().update([1, 30], over=True).text == "a\ufffd"


@pytest.mark.parametrize("jump", [1, 2, 3, 5])
def test_stop_string_never_appears_however_the_text_grows(jump):
    ids = [1, 2, 3, 1, 2, 4, 5]  # abcabde
    write = writer(stop=("abd", "zzz"))
    for length in range(jump, len(ids) + jump, jump):
        transcript = write.update(ids[:length], over=length >= len(ids))
        assert "abc".startswith(transcript.text)
    assert (transcript.text, transcript.num_tokens) == ("abc", 3)
    assert transcript.finish_reason == "stop"


def test_beginning_of_a_stop_string_is_held_back_and_then_let_go():
    write = writer(stop=("bcd", "bx"))
    assert write.update([1, 2, 3]).text == "a"
    assert write.update([1, 2, 3, 5]).text == "abce"


def test_first_of_several_stop_strings_counts():
    assert writer(stop=("c", "b")).update([1, 2, 3]).text == "a"


def test_stop_string_at_the_beginning_leaves_nothing():
    last = writer(stop=("a",)).update([1, 2])
    assert (last.text, last.num_tokens, last.finish_reason) == ("", 0, "stop")


def test_stop_string_behind_max_tokens_is_not_met():
    last = writer(max_tokens=2, stop=("c",)).update([1, 2, 3])
    assert (last.text, last.finish_reason) == ("ab", "length")
