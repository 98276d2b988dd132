"""The task of the tiny model: the questions of ``dlmcache_cuda.assets.questions``.

The generator is loaded by its path, so training needs neither the compiled extension nor an
installed package.
"""

from __future__ import annotations

import importlib.util
import random
import sys
from pathlib import Path
from types import ModuleType

QUESTIONS_FILE = Path(__file__).parents[2] / "dlmcache_cuda" / "assets" / "questions.py"


def _load_questions() -> ModuleType:
    name = "tiny_llada_questions"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, QUESTIONS_FILE)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses look their module up by name
        spec.loader.exec_module(module)
    return sys.modules[name]


questions = _load_questions()
Question = questions.Question
make_questions = questions.make_questions
GEN_LENGTH = questions.GEN_LENGTH
SPLITS = questions.SPLITS
WORDS = questions.WORDS


def training_questions(
    rng: random.Random, count: int, hops: tuple[int, ...], facts: int
) -> list[Question]:
    """``count`` random questions with the same number of facts, hence of the same prompt length."""
    allowed = [number for number in hops if number <= facts]
    return [
        questions.make_question(rng, rng.choice(allowed), facts, rng.choice(questions.FAMILIES))
        for _ in range(count)
    ]


def check(question: Question, response_text: str) -> tuple[bool, bool]:
    """``(exact, final)``: is the worked answer exact, and is the final word right?"""
    return (
        questions.check_answer(question, response_text),
        questions.check_final(question, response_text),
    )
