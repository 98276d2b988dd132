"""Generated, verifiable questions for the bundled tiny LLaDA.

A question lists facts ``(label) key verb value .`` in random order and asks for the entity that
lies ``hops`` facts after the start (family ``steps``) or before it (family ``back``). Every entity
is the key of at most one fact and the value of at most one, so each question has one answer. The
answer shows its work, one line of eleven words per hop, and closes with ``#### final``.

Pure Python, no third-party import: the training scripts, the demo and the tests share this file.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import dataclass

FAMILIES = ("steps", "back")
# fmt: off
ENTITIES = (
    "sack", "boat", "zinc", "yarn", "well", "map", "drum", "leaf", "coin", "lamp", "rope", "salt",
    "kite", "wolf", "fern", "gate", "oven", "harp", "jade", "nest", "pear", "quay", "reed", "tent",
    "urn", "vine", "wax", "yak", "axe", "bell", "crow", "dome", "elk", "fork",
)
# fmt: on
VERBS = ("opens", "finds", "marks", "holds", "takes", "sees")
LABELS = [f"({letter})" for letter in "abcdefghijklmnopqrst"]
MAX_HOPS = 10
MAX_FACTS = 28  # chains of more facts may need more entities than there are
NUMBERS = [str(number) for number in range(1, MAX_HOPS + 1)]
LINE_MARKS = [f"#{number}" for number in range(1, MAX_HOPS + 1)]
FRAME_WORDS = ("Q:", "A:", "start", "steps", "back", "?", ".", ":", "by", "so", "at", "####")
WORDS = [*FRAME_WORDS, *NUMBERS, *LINE_MARKS, *VERBS, *LABELS, *ENTITIES]

END_OF_TEXT = "<|endoftext|>"
LINE_WORDS = 11


@dataclass(frozen=True, slots=True)
class Split:
    """What the questions of a split look like.

    Question ``i`` takes the ``i``-th hops, facts and family of three cycles, whose lengths should
    be coprime so that every combination comes up. ``gen_length`` holds the longest answer, which
    has eleven words per hop and two at the end, and some end-of-text after it.
    """

    hops: tuple[int, ...]
    facts: tuple[int, ...]
    gen_length: int


SPLITS = {
    "heldout": Split((2, 3, 4, 5, 6, 7, 8), (8, 10, 12), 96),
    # Longer lists than any in training, so labels repeat after the twentieth fact.
    "hard": Split((8,), (22, 24, 26), 96),
}
GEN_LENGTH = SPLITS["heldout"].gen_length


@dataclass(frozen=True, slots=True)
class Question:
    """One question with its worked answer.

    ``prompt`` is the text of the user's message, ``answer`` the exact response without
    end-of-text, ``final`` its last word.
    """

    prompt: str
    answer: str
    final: str
    hops: int
    facts: int
    family: str


def make_question(rng: random.Random, hops: int, facts: int, family: str) -> Question:
    """Draw one question; ``facts`` must be between ``hops`` and ``MAX_FACTS``."""
    if family not in FAMILIES:
        raise ValueError(f"make_question: family must be one of {FAMILIES}, got {family!r}")
    if not 1 <= hops <= min(facts, MAX_HOPS) or facts > MAX_FACTS:
        raise ValueError(
            f"make_question: need 1 <= hops <= min(facts, {MAX_HOPS}) and facts <= {MAX_FACTS}, "
            f"got hops={hops}, facts={facts}"
        )
    chains = _draw_chains(rng, hops, facts)
    before = rng.randint(0, len(chains[0]) - 1 - hops)  # facts of the first chain left unused
    route = chains[0][before : before + hops + 1]
    pairs = [pair for chain in chains for pair in zip(chain, chain[1:], strict=False)]
    rng.shuffle(pairs)
    statements = {
        key: (label, key, rng.choice(VERBS), value)
        for label, (key, value) in zip(itertools.cycle(LABELS), pairs, strict=False)
    }
    used = [statements[key] for key in route[:-1]]
    start, final = route[0], route[-1]
    if family == "back":
        used.reverse()
        start, final = final, start
    listing = " ".join(f"{' '.join(statement)} ." for statement in statements.values())
    lines = []
    for number, (label, key, verb, value) in enumerate(used, start=1):
        reached = value if family == "steps" else key
        lines.append(f"#{number} by {label} : {key} {verb} {value} so at {reached} .")
    return Question(
        prompt=f"{listing} start {start} {family} {hops} ?",
        answer=f"{' '.join(lines)} #### {final}",
        final=final,
        hops=hops,
        facts=facts,
        family=family,
    )


def make_questions(count: int, seed: int, split: str = "heldout") -> list[Question]:
    """``count`` questions of a split; the same arguments always give the same questions."""
    if split not in SPLITS:
        raise ValueError(f"make_questions: split must be one of {sorted(SPLITS)}, got {split!r}")
    rng = random.Random(f"{split}:{seed}")
    hops, facts = SPLITS[split].hops, SPLITS[split].facts
    return [
        make_question(rng, hops[i % len(hops)], facts[i % len(facts)], FAMILIES[i % len(FAMILIES)])
        for i in range(count)
    ]


def response_text(text: str) -> str:
    """The response up to the first end-of-text, words separated by single spaces."""
    return " ".join(text.split(END_OF_TEXT, 1)[0].split())


def check_answer(question: Question, text: str) -> bool:
    """True if the response equals the worked answer word for word."""
    return response_text(text) == question.answer


def check_final(question: Question, text: str) -> bool:
    """True if the word after the last ``####`` is the right one, whatever the lines say."""
    words = response_text(text).split()
    if "####" not in words:
        return False
    after = words[len(words) - words[::-1].index("####") :]
    return after == [question.final]


def _draw_chains(rng: random.Random, hops: int, facts: int) -> list[list[str]]:
    """Disjoint chains of entities with ``facts`` links in all; the first has room for the route."""
    pool = rng.sample(ENTITIES, len(ENTITIES))
    chains, length, spare = [], 0, facts
    while spare:
        if not chains:
            length = hops + rng.randint(0, min(2, spare - hops))
        else:
            length = min(rng.randint(1, 4), spare)
            if len(pool) - (length + 1) < _entities_needed(spare - length):
                length = min(4, spare)  # few entities left: the longest chain wastes fewest
        chains.append([pool.pop() for _ in range(length + 1)])
        spare -= length
    return chains


def _entities_needed(facts: int) -> int:
    """Fewest entities that hold ``facts`` links in chains of at most four."""
    return facts + -(-facts // 4)
