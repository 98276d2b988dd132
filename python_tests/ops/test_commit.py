"""What is particular to committing: every rule, ties, invalid candidates, the status, errors.

The oracle works on Python lists and sorts; it shares no code with the operator or its reference.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlmcache_cuda.ops import commit_
from dlmcache_cuda.testing.samples.commit import commit_arguments

MASK = 50
FIXED, THRESHOLD, FACTOR = 0, 1, 2


@dataclass
class Slot:
    """A canvas, its candidates as (position, token, log_confidence, score), and the limits."""

    canvas: list[int]
    candidates: list[tuple[int, int, float, float]] = field(default_factory=list)
    num_commit: int = 1
    step: int = 3
    generation: tuple[int, int] | None = None
    block: tuple[int, int] | None = None

    def span(self) -> tuple[int, int, int, int]:
        whole = (0, len(self.canvas))
        return (*(self.generation or whole), *(self.block or self.generation or whole))


def run(slots, rule, value=0.0, ends=(), scored=False, unused=0, device="cpu"):
    """Calls the operator on `slots` and returns all its results as lists."""
    capacity = len(slots[0].canvas)
    flat = [candidate for slot in slots for candidate in slot.candidates]
    rows = [s * capacity + c[0] for s, slot in enumerate(slots) for c in slot.candidates]
    offsets = [0]
    for slot in slots:
        offsets.append(offsets[-1] + len(slot.candidates))

    def integers(values) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int64, device=device)

    def floats(values) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device)

    tokens = integers([token for slot in slots for token in slot.canvas])
    step, confidence = torch.full_like(tokens, -1), torch.zeros(len(tokens), device=device)
    committed, status = commit_(
        tokens,
        step,
        confidence,
        integers(rows + [-1] * unused),
        integers(offsets),
        integers([c[1] for c in flat] + [0] * unused),
        floats([c[2] for c in flat] + [0.0] * unused),
        floats([c[3] for c in flat] + [0.0] * unused) if scored else None,
        integers([slot.num_commit for slot in slots]),
        integers([slot.step for slot in slots]),
        integers([slot.span() for slot in slots]).view(-1, 4),
        integers(list(ends)),
        MASK,
        capacity,
        rule,
        value,
    )
    assert not committed[len(flat) :].any()
    return (
        tokens.view(len(slots), capacity).tolist(),
        step.view(len(slots), capacity).tolist(),
        confidence.view(len(slots), capacity).tolist(),
        [committed[a:b].tolist() for a, b in zip(offsets, offsets[1:], strict=False)],
        status.tolist(),
    )


def fp32(value: float) -> float:
    return torch.tensor(value, dtype=torch.float32).item()


def oracle(slot: Slot, rule, value=0.0, ends=(), scored=False):
    """The same results for one slot, from the definitions."""
    canvas, steps = list(slot.canvas), [-1] * len(slot.canvas)
    confidences, committed = [0.0] * len(canvas), [False] * len(slot.candidates)
    gen_begin, gen_end, block_begin, block_end = slot.span()
    if gen_begin >= gen_end:
        return canvas, steps, confidences, committed, [0] * 5

    def is_valid(candidate) -> bool:
        _, token, log_confidence, score = candidate
        return token >= 0 and log_confidence == log_confidence and (not scored or score == score)

    def key(number: int) -> float:
        return slot.candidates[number][3 if scored else 2]

    valid = [n for n in range(len(slot.candidates)) if is_valid(slot.candidates[n])]
    chosen: list[int] = []
    if slot.num_commit > 0:
        # Selection sort, so that the tie-break is spelled out.
        order, rest = [], list(valid)
        while rest:
            best = rest[0]
            for number in rest:
                if key(number) > key(best):
                    best = number
            order.append(best)
            rest.remove(best)
        if rule == FIXED:
            chosen = order[: slot.num_commit]
        elif rule == THRESHOLD:
            chosen = order[:1] + [n for n in order[1:] if slot.candidates[n][2] >= fp32(value)]
        else:
            for rank, number in enumerate(order, start=1):
                missing = -math.expm1(slot.candidates[number][2])
                if rank > 1 and not (rank + 1) * missing < value:
                    break
                chosen.append(number)
    for number in chosen:
        position, token, log_confidence, _ = slot.candidates[number]
        if token == MASK:
            continue
        canvas[position], steps[position] = token, slot.step
        confidences[position], committed[number] = log_confidence, True
    first_end = gen_end
    for position in reversed(range(gen_begin, gen_end)):
        if canvas[position] in ends:
            first_end = position
    status = [
        sum(committed),
        canvas[block_begin:block_end].count(MASK),
        canvas[gen_begin:first_end].count(MASK),
        first_end,
        len(slot.candidates) - len(valid),
    ]
    return canvas, steps, confidences, committed, status


# Few values, so that ties are frequent; every one is an exact float32.
LOG_CONFIDENCES = [fp32(math.log(c)) for c in (0.1, 0.5, 0.7, 0.9, 0.95, 0.99, 0.999)]
LOG_CONFIDENCES += [0.0, -0.0, fp32(-1e-6), -math.inf, math.nan]
SCORES = [0.0, -0.0, 0.25, 0.5, 0.75, math.inf, -math.inf, math.nan]


@st.composite
def batches(draw):
    capacity = draw(st.integers(1, 24))
    slots = []
    for _ in range(draw(st.integers(1, 4))):
        positions = sorted(draw(st.sets(st.integers(0, capacity - 1))))
        canvas = draw(st.lists(st.integers(0, 6), min_size=capacity, max_size=capacity))
        candidates = []
        for position in positions:
            canvas[position] = MASK
            token = draw(st.sampled_from([-1, MASK, 0, 1, 2, 3, 4, 5, 6]))
            log_confidence = draw(st.sampled_from(LOG_CONFIDENCES))
            candidates.append((position, token, log_confidence, draw(st.sampled_from(SCORES))))
        boundaries = st.integers(0, capacity)
        slots.append(
            Slot(
                canvas,
                candidates,
                num_commit=draw(st.integers(-1, capacity + 1)),
                step=draw(st.integers(0, 1 << 40)),
                generation=(draw(boundaries), draw(boundaries)) if draw(st.booleans()) else None,
                block=(draw(boundaries), draw(boundaries)) if draw(st.booleans()) else None,
            )
        )
    ends = draw(st.sets(st.integers(0, 6), max_size=3))
    rule = draw(st.sampled_from([FIXED, THRESHOLD, FACTOR]))
    value = {
        FIXED: st.just(0.0),
        THRESHOLD: st.sampled_from([*LOG_CONFIDENCES[:-1], math.log(0.9), math.log(0.7)]),
        FACTOR: st.sampled_from([-1.0, 0.0, 0.2, 0.5, 1.0, 2.0, math.inf]),
    }[rule]
    scored = rule == FIXED and draw(st.booleans())
    return slots, rule, draw(value), sorted(ends), scored, draw(st.integers(0, 3))


@settings(max_examples=300, deadline=None)
@given(batch=batches())
def test_follows_the_definition(batch):
    slots, rule, value, ends, scored, unused = batch
    results = run(slots, rule, value, ends, scored, unused)
    for number, slot in enumerate(slots):
        expected = oracle(slot, rule, value, ends, scored)
        assert tuple(result[number] for result in results) == expected, f"slot {number}"


def masked(candidates, num_commit=1, **options) -> Slot:
    """A canvas of masks, all of them candidates with token 1 + position."""
    listed = [
        (p, 1 + p, fp32(math.log(c)) if c > 0 else -math.inf, c) for p, c in enumerate(candidates)
    ]
    return Slot([MASK] * len(candidates), listed, num_commit, **options)


def chosen(candidates, rule, value=0.0, num_commit=1, device="cpu", scored=False) -> list[int]:
    """Positions that are committed on a canvas of candidates with these confidences."""
    slot = masked(candidates, num_commit)
    committed = run([slot], rule, value, scored=scored, device=device)[3][0]
    return [position for position, is_committed in enumerate(committed) if is_committed]


@pytest.mark.parametrize(
    ("num_commit", "expected"),
    [
        (-1, []),
        (0, []),
        (1, [2]),
        (2, [0, 2]),
        (3, [0, 2, 3]),
        (5, [0, 1, 2, 3, 4]),
        (9, list(range(5))),
    ],
)
def test_fixed_takes_the_best_and_the_leftmost_of_equals(num_commit, expected, device):
    assert (
        chosen([0.5, 0.0, 0.9, 0.5, 0.2], FIXED, num_commit=num_commit, device=device) == expected
    )


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [(0.95, [2]), (0.9, [2, 4]), (0.89, [2, 4]), (0.5, [0, 2, 3, 4]), (1e-30, [0, 2, 3, 4])],
)
def test_threshold_includes_a_confidence_equal_to_it(threshold, expected, device):
    # No 0.95 is reached: the best, here the first of two equals, is taken all the same.
    confidences = [0.5, 0.0, 0.9, 0.5, 0.9]
    assert chosen(confidences, THRESHOLD, math.log(threshold), device=device) == expected


def test_threshold_of_zero_takes_everything(device):
    assert chosen([0.5, 0.0, 0.9], THRESHOLD, -math.inf, device=device) == [0, 1, 2]


@pytest.mark.parametrize(
    ("confidences", "factor", "expected"),
    [
        # (n + 1) (1 - c_n) of the sorted order: 0.02, 0.06, 0.2, 0.75, 1.8
        ([0.98, 0.7, 0.99, 0.85, 0.95], 1.0, [0, 2, 3, 4]),
        ([0.98, 0.7, 0.99, 0.85, 0.95], 0.5, [0, 2, 4]),
        ([0.98, 0.7, 0.99, 0.85, 0.95], 0.05, [2]),
        # The first fails: still one. A later one that would pass on its own does not count.
        ([0.2, 0.3], 1.0, [1]),
        ([0.9, 0.9, 0.9, 0.9, 0.9], 0.45, [0, 1, 2]),
        # All pass: all are committed; and only the last fails: all but the last.
        ([0.99, 0.99, 0.99], 1.0, [0, 1, 2]),
        ([0.99, 0.99, 0.6], 1.0, [0, 1]),
    ],
)
def test_factor_takes_the_longest_passing_prefix(confidences, factor, expected, device):
    assert chosen(confidences, FACTOR, factor, device=device) == expected


def test_factor_tells_confidences_near_one_apart(device):
    # As fp32 probabilities all of these are 1.0.
    logs = [-1e-9, -1e-10, -1e-8]
    slot = Slot([MASK] * 3, [(p, p, log, 0.0) for p, log in enumerate(logs)])
    committed = run([slot], FACTOR, 2.5e-9, device=device)[3][0]
    assert committed == [False, True, False]


def test_score_decides_and_log_confidence_is_recorded(device):
    slot = Slot([MASK] * 3, [(0, 4, -3.0, 0.9), (1, 5, -0.1, 0.2), (2, 6, -1.0, 0.9)], num_commit=2)
    tokens, step, confidence, committed, status = run([slot], FIXED, scored=True, device=device)
    assert tokens == [[4, MASK, 6]] and step == [[3, -1, 3]]
    assert confidence == [[-3.0, 0.0, -1.0]]
    assert committed == [[True, False, True]] and status == [[2, 1, 1, 3, 0]]


def test_predicted_mask_uses_up_its_place(device):
    slot = Slot([MASK] * 3, [(0, 4, -2.0, 0), (1, MASK, -0.1, 0), (2, 6, -1.0, 0)], num_commit=2)
    tokens, step, confidence, committed, status = run([slot], FIXED, device=device)
    assert tokens == [[MASK, MASK, 6]] and step == [[-1, -1, 3]]
    assert committed == [[False, False, True]] and confidence == [[0.0, 0.0, -1.0]]
    assert status == [[1, 2, 2, 3, 0]]


@pytest.mark.parametrize("rule", [FIXED, THRESHOLD, FACTOR])
def test_invalid_candidates_are_counted_and_never_chosen(rule, device):
    invalid = [(0, -1, -0.1, 0.0), (1, 4, math.nan, 0.0)]
    slot = Slot([MASK] * 4, [*invalid, (3, 5, -math.inf, 0.0)], num_commit=9)
    tokens, _, confidence, committed, status = run([slot], rule, -1.0, device=device)
    assert tokens == [[MASK, MASK, MASK, 5]] and committed == [[False, False, True]]
    assert confidence[0][3] == -math.inf and status == [[1, 3, 3, 4, 2]]
    idle = Slot([MASK] * 4, slot.candidates, num_commit=0)
    assert run([idle], rule, -1.0, device=device)[4] == [[0, 4, 4, 4, 2]]
    only_invalid = Slot([MASK] * 4, invalid)
    assert run([only_invalid], rule, -1.0, device=device)[4] == [[0, 4, 4, 4, 2]]


def test_status_sees_tokens_committed_now(device):
    # The end token 2 comes in with this commit, between a mask and one that was there before.
    slot = Slot([2, 9, MASK, MASK, MASK, 2], [(3, 2, -0.1, 0.0)], generation=(1, 6), block=(2, 4))
    assert run([slot], FIXED, ends=(7, 2), device=device)[4] == [[1, 1, 1, 3, 0]]
    assert run([slot], FIXED, ends=(), device=device)[4] == [[1, 1, 2, 6, 0]]
    slot.num_commit = 0
    assert run([slot], FIXED, ends=(7, 2), device=device)[4] == [[0, 2, 3, 5, 0]]


def test_empty_slot_is_left_alone(device):
    empty = masked([0.5, 0.5], 2, generation=(1, 1), block=(0, 2))
    tokens, _, _, committed, status = run([empty, masked([0.5, 0.9])], FIXED, device=device)
    assert tokens == [[MASK, MASK], [MASK, 2]]
    assert committed == [[False, False], [False, True]] and status[0] == [0] * 5


@pytest.mark.parametrize("rule", [FIXED, THRESHOLD, FACTOR])
def test_slots_do_not_influence_each_other(rule, device):
    value = {FIXED: 0.0, THRESHOLD: math.log(0.6), FACTOR: 1.0}[rule]
    generator = torch.Generator().manual_seed(rule)
    sizes = [40, 0, 300, 1, 77]
    capacity = 310
    batch = commit_arguments(generator, sizes, capacity, unused=3, invalid=0.05, mask=0.05)
    moved = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in batch.items()}
    alone = {k: v.clone() if isinstance(v, torch.Tensor) else v for k, v in moved.items()}
    committed, status = commit_(**moved, rule=rule, rule_value=value)
    offsets = batch["cu_rows"].tolist()
    for slot, size in enumerate(sizes):
        rows, canvas = (
            slice(offsets[slot], offsets[slot + 1]),
            slice(slot * capacity, (slot + 1) * capacity),
        )
        single = dict(alone)
        for name in ("tokens", "commit_step", "commit_log_confidence"):
            single[name] = alone[name][canvas].clone()
        for name in ("token", "log_confidence"):
            single[name] = alone[name][rows]
        single["row_index"] = alone["row_index"][rows] - slot * capacity
        single["cu_rows"] = torch.tensor([0, size], device=device)
        for name in ("num_commit", "steps", "spans"):
            single[name] = alone[name][slot : slot + 1]
        committed_, status_ = commit_(**single, rule=rule, rule_value=value)
        assert torch.equal(committed[rows], committed_) and torch.equal(status[slot], status_[0])
        for name in ("tokens", "commit_step", "commit_log_confidence"):
            assert torch.equal(moved[name][canvas], single[name]), (slot, name)


@pytest.mark.parametrize("rule", [FIXED, THRESHOLD, FACTOR])
def test_thousands_of_candidates(rule, device):
    value = {FIXED: 0.0, THRESHOLD: math.log(0.5), FACTOR: 3.0}[rule]
    generator = torch.Generator().manual_seed(7)
    logs = (-torch.rand(5000, generator=generator) / 1024).tolist()
    candidates = [(p, 1 + p % 40, log, 0.0) for p, log in enumerate(logs)]
    slot = Slot([MASK] * 6000, candidates, num_commit=2345)
    results = run([slot], rule, value, device=device)
    assert tuple(result[0] for result in results) == oracle_by_sorting(slot, rule, value)


def oracle_by_sorting(slot: Slot, rule, value):
    """`oracle`, quick enough for thousands of candidates that are all valid."""
    order = sorted(range(len(slot.candidates)), key=lambda n: (-slot.candidates[n][2], n))
    logs = [slot.candidates[n][2] for n in order]
    if rule == FIXED:
        count = slot.num_commit
    elif rule == THRESHOLD:
        count = max(1, sum(log >= fp32(value) for log in logs))
    else:
        count = 1
        while count < len(logs) and (count + 2) * -math.expm1(logs[count]) < value:
            count += 1
    best = Slot(slot.canvas, [slot.candidates[n] for n in sorted(order[:count])], count, slot.step)
    canvas, steps, confidences, _, status = oracle(best, FIXED)
    taken = set(order[:count])
    return canvas, steps, confidences, [n in taken for n in range(len(order))], status


ERRORS = {
    r"rule must be 0 \(fixed\), 1 \(threshold\) or 2 \(factor\), got 3": {"rule": 3},
    "rule_value must be a number, got NaN": {"rule": 1, "rule_value": math.nan},
    r"score is for rule 0 \(fixed\) only, rule 2": {"rule": 2, "score": torch.zeros(3)},
    "capacity must be positive, got 0": {"capacity": 0},
    "2 slots of capacity 4611686018427387904 have more positions": {"capacity": 2**62},
    r"tokens must have shape \[8\], got \[7\]": {"tokens": torch.zeros(7, dtype=torch.int64)},
    "tokens must be Long": {"tokens": torch.zeros(8, dtype=torch.int32)},
    "tokens must be contiguous": {"tokens": torch.zeros(16, dtype=torch.int64)[::2]},
    "commit_step must have shape": {"commit_step": torch.zeros(2, dtype=torch.int64)},
    "commit_log_confidence must be Float, got Double": {
        "commit_log_confidence": torch.zeros(8, dtype=torch.float64)
    },
    "row_index must be Long": {"row_index": torch.zeros(3)},
    r"row_index\[1\] is 4, allowed in slot 0 are -1 \(unused\) and 0 to 3": {
        "row_index": torch.tensor([0, 4, 5])
    },
    r"row_index\[2\] is 8, allowed in slot 1": {"row_index": torch.tensor([0, 2, 8])},
    r"row_index\[0\] is -2, allowed in slot 0": {"row_index": torch.tensor([-2, 2, 5])},
    r"cu_rows\[1\] is 4, but the list has 3 entries": {"cu_rows": torch.tensor([0, 4])},
    r"cu_rows\[0\] is 1": {"cu_rows": torch.tensor([1, 2, 3])},
    r"token must have shape \[3\], got \[2\]": {"token": torch.tensor([1, 2])},
    "log_confidence must be Float, got Half": {"log_confidence": torch.zeros(3).half()},
    r"log_confidence must have shape \[3\]": {"log_confidence": torch.zeros(4)},
    r"score must have shape \[3\]": {"score": torch.zeros(4)},
    r"num_commit must have shape \[2\]": {"num_commit": torch.tensor([1])},
    "steps must be Long": {"steps": torch.zeros(2)},
    r"spans must have shape \[2, 4\], got \[2, 3\]": {
        "spans": torch.zeros(2, 3, dtype=torch.int64)
    },
    "spans must be Long": {"spans": torch.zeros(2, 4)},
    r"spans\[1, 3\] is 5, allowed are 0 to 4 \(capacity\)": {
        "spans": torch.tensor([[0, 4, 0, 4], [0, 4, 0, 5]])
    },
    r"end_ids must have shape \[\*\]": {"end_ids": torch.zeros(1, 1, dtype=torch.int64)},
}


@pytest.mark.parametrize("message", ERRORS)
def test_refuses(message):
    arguments = {
        "tokens": torch.full((8,), MASK),
        "commit_step": torch.zeros(8, dtype=torch.int64),
        "commit_log_confidence": torch.zeros(8),
        "row_index": torch.tensor([0, 2, 5]),
        "cu_rows": torch.tensor([0, 2, 3]),
        "token": torch.tensor([1, 2, 3]),
        "log_confidence": torch.zeros(3),
        "score": None,
        "num_commit": torch.tensor([1, 1]),
        "steps": torch.tensor([0, 0]),
        "spans": torch.tensor([[0, 4, 0, 4], [0, 4, 0, 4]]),
        "end_ids": torch.tensor([7]),
        "mask_id": MASK,
        "capacity": 4,
        "rule": FIXED,
        "rule_value": 0.0,
    }
    if "cu_rows[1] is 4" in message.replace("\\", ""):
        arguments.update(tokens=arguments["tokens"][:4])
    before = arguments["tokens"].clone()
    with pytest.raises(RuntimeError, match="commit_: " + message):
        commit_(**{**arguments, **ERRORS[message]})
    assert torch.equal(arguments["tokens"], before)
