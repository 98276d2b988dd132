"""The question generator: deterministic, verifiable, within the vocabulary and the canvas."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest

SPLITS = ("heldout", "hard")


@pytest.fixture(scope="module")
def questions(train_tiny: SimpleNamespace):
    return train_tiny.task.questions


def solve(prompt: str) -> tuple[list[str], str]:
    """Facts used and final entity, found from the text of the prompt alone."""
    listing, request = prompt.split(" start ")
    facts = [fact.split() for fact in listing.removesuffix(" .").split(" . ")]
    here, direction, count, mark = request.split()
    assert mark == "?" and direction in ("steps", "back")
    known, reached = (1, 3) if direction == "steps" else (3, 1)
    used = []
    for _ in range(int(count)):
        (fact,) = [fact for fact in facts if fact[known] == here]
        used.append(" ".join(fact))
        here = fact[reached]
    return used, here


@pytest.mark.parametrize("split", SPLITS)
def test_questions_same_seed_same_questions(questions, split: str) -> None:
    first = questions.make_questions(20, seed=7, split=split)
    assert first == questions.make_questions(20, seed=7, split=split)
    assert first[:5] == questions.make_questions(5, seed=7, split=split)
    assert first != questions.make_questions(20, seed=8, split=split)


def test_questions_splits_differ(questions) -> None:
    heldout = {q.prompt for q in questions.make_questions(100, seed=0, split="heldout")}
    hard = {q.prompt for q in questions.make_questions(100, seed=0, split="hard")}
    rng = random.Random("train:0:0")
    train = {questions.make_question(rng, 4, 8, "steps").prompt for _ in range(100)}
    assert len(heldout) == len(hard) == len(train) == 100
    assert not heldout & hard and not heldout & train and not hard & train


@pytest.mark.parametrize("split", SPLITS)
def test_questions_answer_follows_the_chain(questions, split: str) -> None:
    for question in questions.make_questions(84, seed=3, split=split):
        used, final = solve(question.prompt)
        assert final == question.final
        assert len(used) == question.hops
        assert question.prompt.count(" .") == question.facts
        lines = question.answer.split(" #### ")[0].split(" . ")
        assert len(lines) == question.hops
        for number, (line, fact) in enumerate(zip(lines, used, strict=True), start=1):
            label, key, verb, value = fact.split()
            reached = value if question.family == "steps" else key
            expected = f"#{number} by {label} : {key} {verb} {value} so at {reached}"
            assert line.removesuffix(" .") == expected
        assert questions.check_answer(question, question.answer)
        assert questions.check_final(question, question.answer)


def test_questions_splits_cover_every_combination(questions) -> None:
    for name, split in questions.SPLITS.items():
        count = len(split.hops) * len(split.facts) * len(questions.FAMILIES)
        drawn = questions.make_questions(count, seed=1, split=name)
        combinations = len(set(split.hops)) * len(split.facts) * len(questions.FAMILIES)
        assert len({(q.hops, q.facts, q.family) for q in drawn}) == combinations


@pytest.mark.parametrize("split", SPLITS)
def test_questions_fit_vocabulary_and_canvas(questions, train_tiny, split: str) -> None:
    vocabulary = train_tiny.tokenizer.VOCABULARY
    assert len(vocabulary) == len(questions.WORDS) + 4  # no word twice
    for question in questions.make_questions(60, seed=5, split=split):
        words = f"{question.prompt} {question.answer}".split()
        assert all(word in vocabulary for word in words)
        prompt = train_tiny.tokenizer.prompt_ids(question.prompt)
        assert len(prompt) == 5 * question.facts + 8
        # at least one end-of-text must fit
        assert len(question.answer.split()) < questions.SPLITS[split].gen_length


def test_check_answer_ignores_only_what_follows_end_of_text(questions) -> None:
    (question,) = questions.make_questions(1, seed=0)
    end = questions.END_OF_TEXT
    assert questions.check_answer(question, f" {question.answer}  {end} {end}")
    assert questions.check_answer(question, f"{question.answer} {end} anything")
    assert not questions.check_answer(question, f"{question.answer} {question.final}")
    assert not questions.check_answer(question, question.answer.replace("by", "at", 1))
    assert questions.check_final(question, question.answer.replace("by", "at", 1))
    wrong = "boat" if question.final != "boat" else "sack"
    assert not questions.check_final(question, f"#### {wrong}")
    assert not questions.check_final(question, question.final)
    assert not questions.check_final(question, f"#### {question.final} {wrong}")


def test_questions_bad_arguments_are_named(questions) -> None:
    rng = random.Random(0)
    with pytest.raises(ValueError, match="family must be one of"):
        questions.make_question(rng, 2, 8, "sideways")
    with pytest.raises(ValueError, match="hops=9, facts=8"):
        questions.make_question(rng, 9, 8, "steps")
    with pytest.raises(ValueError, match="split must be one of"):
        questions.make_questions(1, seed=0, split="train")


def test_questions_every_size_can_be_drawn(questions) -> None:
    rng = random.Random(11)
    for facts in range(1, len(questions.LABELS) + 1):
        for hops in range(1, min(facts, questions.MAX_HOPS) + 1):
            question = questions.make_question(rng, hops, facts, "back")
            assert solve(question.prompt)[1] == question.final
