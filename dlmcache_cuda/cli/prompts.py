"""Prompts of commands that take several: from options, a file, or the bundled questions."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlmcache_cuda.assets.questions import SPLITS, Question, check_answer, make_questions


@dataclass(frozen=True, slots=True)
class Prompts:
    """What was asked for.

    Attributes:
        prompts: for ``decode``.
        questions: the bundled questions that they are; None for prompts of the user's.
        gen_length: positions to decode if nothing is said.
    """

    prompts: list[Any]
    questions: list[Question] | None = None
    gen_length: int = 128

    def score(self, index: int, text: str) -> bool:
        """Whether a response is the worked answer of a bundled question."""
        return check_answer(self.questions[index], text)


def add_prompt_options(parser: argparse.ArgumentParser, questions: int) -> None:
    """``--prompt``, ``--file``, the bundled questions, and the length to decode."""
    group = parser.add_argument_group("prompts", "Without any: questions of the bundled model.")
    group.add_argument("--prompt", action="append", help="a prompt; may be repeated")
    group.add_argument(
        "--file",
        type=Path,
        help="one prompt per line; or, if its name ends in .jsonl, one JSON value per line: a "
        'text, {"prompt": text}, or a chat ([{"role", "content"}, ...] or {"messages": [...]})',
    )
    group.add_argument("--gen-length", type=int, help="default: 96 (bundled questions), else 128")
    group.add_argument("--chat", action="store_true", help="send texts through the chat template")
    group.add_argument(
        "--questions", type=int, default=questions,
        help="bundled questions to use (default: %(default)s)",
    )  # fmt: skip
    group.add_argument("--questions-seed", type=int, default=0, help="which (default: %(default)s)")
    group.add_argument(
        "--split", choices=list(SPLITS), default="heldout", help="default: %(default)s"
    )


def read_prompts(arguments: argparse.Namespace) -> Prompts:
    """The prompts that the options name.

    Raises:
        ValueError: there are none, or the file is not as it must be.
        FileNotFoundError: there is no such file.
    """
    if arguments.prompt is None and arguments.file is None:
        if arguments.model is not None:
            raise ValueError("no prompts: give --prompt or --file")
        if arguments.questions < 1:
            raise ValueError(f"--questions must be at least 1, got {arguments.questions}")
        asked = make_questions(arguments.questions, arguments.questions_seed, arguments.split)
        chats = [_chat(question.prompt) for question in asked]
        return Prompts(chats, asked, SPLITS[arguments.split].gen_length)
    prompts: list[Any] = list(arguments.prompt or ())
    if arguments.file is not None:
        prompts += _read_file(arguments.file)
    for number, prompt in enumerate(prompts, start=1):
        if isinstance(prompt, str) and not prompt.strip():
            raise ValueError(f"prompt {number} is empty")
    if not prompts:
        raise ValueError(f"{arguments.file} holds no prompts")
    if arguments.chat:
        prompts = [_chat(prompt) if isinstance(prompt, str) else prompt for prompt in prompts]
    return Prompts(prompts)


def _chat(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def _read_file(path: Path) -> list[Any]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is no UTF-8 text: {error}") from error
    numbered = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if path.suffix != ".jsonl":
        return [line for _, line in numbered]
    return [_from_json(path, number, line) for number, line in numbered]


def _from_json(path: Path, number: int, line: str) -> Any:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise ValueError(f"{path}, line {number}: not JSON: {error}") from error
    if isinstance(value, dict):
        names = [name for name in ("prompt", "messages") if name in value]
        value = value[names[0]] if len(names) == 1 else None
    is_chat = isinstance(value, list) and value and all(isinstance(m, dict) for m in value)
    if not isinstance(value, str) and not is_chat:
        raise ValueError(
            f"{path}, line {number}: must be a text, a chat, or an object with 'prompt' or "
            f"'messages', got {line[:80]}"
        )
    return value
