"""head_reduce beyond the samples."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlmcache_cuda import ops
from dlmcache_cuda.reference.head import reduce_logits
from dlmcache_cuda.reference.random import gumbel_noise


def of_logits(logits: torch.Tensor, device: str = "cpu", **options):
    """head_reduce of given logits: the hidden states are unit vectors, the weight holds the logits.

    Infinities and NaN must not meet the zeros of a GEMM, so a row that has them comes alone, with
    width 1.
    """
    logits = logits.to(device)
    options = {k: v.to(device) if torch.is_tensor(v) else v for k, v in options.items()}
    if logits.shape[0] == 1:
        one = torch.ones(1, 1, dtype=logits.dtype, device=device)
        return ops.head_reduce(one, logits.T.contiguous(), **options)
    unit = torch.eye(logits.shape[0], dtype=logits.dtype, device=device)
    return ops.head_reduce(unit, logits.T.contiguous(), **options)


# Widths with one tile, several tiles, several chunks, and remainders everywhere.
VOCABS = (1, 3, 257, 2048, 5001, 20_003)


@pytest.mark.parametrize("vocab", VOCABS)
@pytest.mark.parametrize("rows", (1, 2, 19))
def test_matches_float64(rows, vocab, device):
    logits = torch.randn(rows, vocab) * 4
    result = of_logits(logits, device, extras=True)
    expected = reduce_logits(logits.double(), extras=True)
    for value, exact in zip(result, expected, strict=True):
        torch.testing.assert_close(value.cpu(), exact.to(value.dtype), rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("vocab", (40, 20_003))
def test_confidence_near_one_is_lossless(vocab, device):
    gap = torch.arange(1, 70, dtype=torch.float32)
    logits = torch.full((len(gap), vocab), -200.0)
    logits[:, vocab // 2] = 3.0
    logits[:, 1] = 3.0 - gap  # 1 - p = e^-gap / (1 + e^-gap), down to 1e-30
    token, log_confidence, second, second_log, entropy = of_logits(logits, device, extras=True)
    assert (token == vocab // 2).all() and (second == 1).all()
    exact = -torch.log1p(torch.exp(-gap.double()))
    torch.testing.assert_close(log_confidence.cpu().double(), exact, rtol=2e-6, atol=0)
    torch.testing.assert_close(second_log.cpu().double(), exact - gap, rtol=2e-6, atol=0)
    p = exact.exp()
    exact_entropy = -(p * exact + (exact - gap).exp() * (exact - gap))
    torch.testing.assert_close(entropy.cpu().double(), exact_entropy, rtol=4e-6, atol=0)
    assert (log_confidence.diff() > 0).all()


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16))
@pytest.mark.parametrize("vocab", VOCABS)
def test_ties_take_the_lowest_id(vocab, dtype, device):
    places = sorted({0, vocab // 3, vocab // 2, vocab - 1})
    for first in range(len(places)):
        logits = torch.zeros(2, vocab, dtype=dtype)
        logits[:, places[first:]] = 2.0
        token, _, second, _, _ = of_logits(logits, device, extras=True)
        rest = [p for p in places[first + 1 :]] or [i for i in range(2) if i != token[0]]
        assert token.tolist() == [places[first]] * 2
        assert second[0] == (rest[0] if vocab > 1 else -1)


def test_all_equal_logits(device):
    token, log_confidence, second, second_log, entropy = of_logits(
        torch.full((3, 9000), -5.0), device, extras=True
    )
    assert token.tolist() == [0] * 3 and second.tolist() == [1] * 3
    for value, sign in ((log_confidence, -1), (second_log, -1), (entropy, 1)):
        torch.testing.assert_close(value.cpu(), torch.full((3,), sign * math.log(9000.0)))


@pytest.mark.parametrize("bad", (math.nan, math.inf))
@pytest.mark.parametrize("place", (0, 4000, 19_999))
def test_broken_rows_are_marked(bad, place, device):
    for background in (0.0, -math.inf):
        logits = torch.full((1, 20_000), background)
        logits[0, 77] = 5.0 if background == 0.0 else background
        logits[0, place] = bad
        token, log_confidence, second, second_log, entropy = of_logits(logits, device, extras=True)
        assert token.tolist() == [-1] and second.tolist() == [-1]
        assert log_confidence.isnan() and second_log.isnan() and entropy.isnan()
        # As a suppressed id it has no say.
        token, log_confidence, *_ = of_logits(logits, device, suppress_ids=torch.tensor([place]))
        assert token.tolist() == [77 if background == 0.0 else -1]
        # Outside the softmax it can still be chosen, so it still spoils the row.
        lists = {"confidence_suppress_ids": torch.tensor([place])}
        token, log_confidence, *_ = of_logits(logits, device, **lists)
        assert token.tolist() == [-1] and log_confidence.isnan()


def test_one_broken_row_leaves_the_others(device):
    hidden = torch.ones(3, 1, device=device)
    hidden[1] = math.nan
    weight = torch.tensor([[0.0], [1.0], [0.5]], device=device)
    token, log_confidence, *_ = ops.head_reduce(hidden, weight)
    assert token.tolist() == [1, -1, 1]
    assert log_confidence.isnan().tolist() == [False, True, False]


def test_minus_infinity_is_excluded(device):
    logits = torch.tensor([[-math.inf, 2.0, -math.inf]])
    token, log_confidence, second, second_log, entropy = of_logits(logits, device, extras=True)
    assert token.tolist() == [1] and log_confidence.tolist() == [0.0]
    assert second.tolist() == [-1] and second_log.tolist() == [-math.inf]
    assert entropy.tolist() == [0.0]


@pytest.mark.parametrize("temperature", (0.0, 0.5))
def test_nothing_left_to_choose(temperature, device):
    noise = {
        "row_index": torch.tensor([0, 1]),
        "capacity": 2,
        "seeds": torch.tensor([1]),
        "steps": torch.tensor([1]),
    }
    outputs = of_logits(
        torch.randn(2, 300),
        device,
        suppress_ids=torch.arange(300),
        temperature=temperature,
        extras=True,
        **noise,
    )
    assert outputs[0].tolist() == [-1, -1] and outputs[2].tolist() == [-1, -1]
    assert all(outputs[i].isnan().all() for i in (1, 3, 4))


def test_suppressed_ids_leave_choice_and_softmax(device):
    logits = torch.randn(4, 6000)
    drop = torch.cat([logits.topk(2).indices.flatten(), torch.tensor([0, 5999, 0])])
    result = of_logits(logits, device, suppress_ids=drop, extras=True)
    without = logits.double()
    without[:, drop] = -math.inf
    for value, exact in zip(result, reduce_logits(without, extras=True), strict=True):
        torch.testing.assert_close(value.cpu(), exact.to(value.dtype), rtol=2e-6, atol=2e-6)


def test_confidence_suppressed_ids_leave_the_softmax_only(device):
    logits = torch.randn(3, 6000)
    first, second = logits.topk(2).indices.T
    # Row 0 chooses such an id, row 1 has it as runner-up, row 2 has none of them near.
    outside = torch.stack([first[0], second[1], first[0]])
    result = of_logits(logits, device, confidence_suppress_ids=outside, extras=True)
    expected = reduce_logits(logits.double(), outside, extras=True)
    for value, exact in zip(result, expected, strict=True):
        torch.testing.assert_close(value.cpu(), exact.to(value.dtype), rtol=2e-6, atol=2e-6)
    assert result[0].tolist() == first.tolist() and result[1][0] == -math.inf
    assert result[2][0] == second[0]
    # All of them outside: a token, but no softmax.
    token, log_confidence, second, second_log, _ = of_logits(
        logits, device, confidence_suppress_ids=torch.arange(6000), extras=True
    )
    assert token.tolist() == first.tolist() and second.tolist() == [-1] * 3
    assert log_confidence.tolist() == second_log.tolist() == [-math.inf] * 3
    # In both lists: excluded from everything.
    both = {"suppress_ids": first[:1], "confidence_suppress_ids": first[:1]}
    assert of_logits(logits, device, **both)[0][0] == result[2][0]


def noise_options(rows, capacity, seeds, steps, temperature):
    return {
        "row_index": torch.as_tensor(rows),
        "capacity": capacity,
        "seeds": torch.as_tensor(seeds),
        "steps": torch.as_tensor(steps),
        "temperature": temperature,
    }


@pytest.mark.parametrize("temperature", (0.1, 1.0, 30.0))
@pytest.mark.parametrize("vocab", (7, 5001, 20_003))
def test_noise_is_the_twins(vocab, temperature, device):
    logits = torch.randn(6, vocab) * 3
    options = noise_options([0, 4, 5, 9, 10, -1], 5, [9, -1, 2**50], [0, 3, 2**35 + 1], temperature)
    outside = torch.tensor([vocab // 2, 1])
    result = of_logits(logits, device, confidence_suppress_ids=outside, extras=True, **options)
    expected = reduce_logits(logits.double(), outside, extras=True, **{**options})
    noise = gumbel_noise(
        torch.tensor([9, 9, -1, -1, 2**50]),
        torch.tensor([0, 0, 3, 3, 2**35 + 1]),
        torch.tensor([0, 4, 0, 4, 0]),
        vocab,
    )
    best = (logits[:5].double() + temperature * noise).topk(2).values
    assert ((best[:, 0] - best[:, 1]) > 1e-4).all()  # or the comparison would be one of rounding
    for value, exact in zip(result, expected, strict=True):
        torch.testing.assert_close(value.cpu(), exact.to(value.dtype), rtol=4e-6, atol=4e-6)
    assert result[0][5] == -1 and result[1][5] == 0


def test_noise_values_equal_the_twins(device):
    # With two ids left, the difference of their noises decides: offsets bracket it to 1e-4.
    vocab = 64
    noise = gumbel_noise(torch.tensor([5]), torch.tensor([2]), torch.tensor([3]), vocab)[0]
    difference = noise[1:] - noise[0]
    for sign in (-1, 1):
        for other in range(1, vocab):
            pair = torch.full((1, vocab), -1e30)
            pair[0, 0] = difference[other - 1] + sign * 1e-4
            pair[0, other] = 0.0
            token = of_logits(pair, device, **noise_options([3], 8, [5], [2], 1.0))[0]
            assert token.item() == (0 if sign > 0 else other)


def test_noise_does_not_depend_on_slot_or_batch(device):
    logits = torch.randn(1, 3000)
    alone = of_logits(logits, device, **noise_options([7], 10, [42], [6], 2.0))
    many = logits.repeat(9, 1)
    seeds, steps = torch.arange(3), torch.arange(3)
    seeds[2], steps[2] = 42, 6
    options = noise_options([0, 1, 2, 10, 11, 12, 13, 14, 27], 10, seeds, steps, 2.0)
    batch = of_logits(many, device, **options)
    assert batch[0][8] == alone[0][0]
    torch.testing.assert_close(batch[1][8:], alone[1])


@pytest.mark.parametrize("temperature", (0.5, 1.0, 2.0))
def test_sampling_follows_the_softmax(temperature, device):
    # Chi-square with 6 degrees of freedom: above 35 once in 200 000.
    logits = torch.tensor([0.0, 1.0, -1.0, 0.5, 2.0, -0.5, 1.5])
    rows = 20_000
    options = noise_options(torch.arange(rows), rows, [123], [4], temperature)
    hidden = torch.ones(rows, 1, device=device)
    options = {k: v.to(device) if torch.is_tensor(v) else v for k, v in options.items()}
    token = ops.head_reduce(hidden, logits[:, None].to(device), **options)[0].cpu()
    expected = rows * torch.softmax(logits.double() / temperature, -1)
    counts = torch.bincount(token, minlength=7)
    assert (((counts - expected) ** 2) / expected).sum() < 35


@given(
    rows=st.integers(1, 9),
    vocab=st.integers(1, 3000),
    scale=st.sampled_from([0.0, 0.125, 8.0]),
    seed=st.integers(0, 2**31),
    drop=st.lists(st.integers(0, 2999), max_size=5),
    outside=st.lists(st.integers(0, 2999), max_size=5),
    temperature=st.sampled_from([0.0, 0.0, 0.7]),
)
@settings(deadline=None, max_examples=60)
def test_property_against_float64(rows, vocab, scale, seed, drop, outside, temperature):
    generator = torch.Generator().manual_seed(seed)
    # Multiples of 1/8: many ties, and all of them exact.
    logits = (torch.randn(rows, vocab, generator=generator) * scale * 8).round() / 8
    drop = torch.tensor([i % vocab for i in drop], dtype=torch.long)
    outside = torch.tensor([i % vocab for i in outside], dtype=torch.long)
    options = noise_options(torch.arange(rows), rows, [seed], [seed % 97], temperature)
    result = of_logits(
        logits, suppress_ids=drop, confidence_suppress_ids=outside, extras=True, **options
    )
    exact = logits.double()
    exact[:, drop] = -math.inf
    expected = reduce_logits(exact, outside, extras=True, **options)
    if temperature > 0:  # two ids closer than rounding may change places
        place = torch.zeros(rows, dtype=torch.long)
        noise = gumbel_noise(place + seed, place + seed % 97, torch.arange(rows), vocab)
        best = (exact + temperature * noise).topk(min(2, vocab)).values
        if not (best[:, 0] - best[:, -1] > 1e-4).logical_or(best[:, -1].isneginf()).all():
            return
    for value, exact_ in zip(result, expected, strict=True):
        torch.testing.assert_close(
            value, exact_.to(value.dtype), rtol=4e-6, atol=4e-6, equal_nan=True
        )


def test_never_holds_the_logits_of_the_vocabulary():
    rows, width, vocab = 64, 4, 50_000
    hidden, weight = torch.randn(rows, width), torch.randn(vocab, width)
    with torch.profiler.profile(profile_memory=True) as profile:
        ops.head_reduce(hidden, weight)
    allocated = [e.cpu_memory_usage for e in profile.key_averages() if e.cpu_memory_usage > 0]
    assert sum(allocated) > 0
    assert sum(allocated) <= 5 * 2**20, allocated  # the logits would be 12.8 MB


def test_weights_that_ask_for_gradients_are_accepted(device):
    weight = torch.nn.Parameter(torch.randn(40, 8, device=device))
    hidden = torch.randn(3, 8, device=device, requires_grad=True)
    token = ops.head_reduce(hidden, weight)[0]
    assert torch.equal(token, (hidden @ weight.T).argmax(-1))
    with torch.inference_mode():
        assert torch.equal(ops.head_reduce(hidden, weight)[0], token)


def test_is_deterministic_for_every_number_of_threads():
    hidden, weight = torch.randn(3, 16), torch.randn(30_000, 16)
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(ops.head_reduce(hidden, weight, extras=True))
    finally:
        torch.set_num_threads(threads)
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(
                a, b, rtol=1e-6, atol=1e-6
            )  # the GEMM may differ in rounding


def call(**changes):
    arguments = {
        "hidden": torch.randn(3, 4),
        "weight": torch.randn(10, 4),
        "row_index": torch.tensor([0, 3, -1]),
        "capacity": 2,
        "seeds": torch.tensor([1, 2]),
        "steps": torch.tensor([1, 2]),
        "temperature": 0.5,
    }
    return ops.head_reduce(**{**arguments, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden": torch.randn(3)}, r"hidden must have shape \[\*, \*\], got \[3\]"),
        ({"weight": torch.randn(10, 5)}, r"weight must have shape \[\*, 4\], got \[10, 5\]"),
        ({"weight": torch.randn(0, 4)}, r"weight must have from 1 to .* rows .*, got 0"),
        (
            {"hidden": torch.randn(3, 4).double()},
            "hidden must be float32, float16 or bfloat16, got Double",
        ),
        ({"weight": torch.randn(10, 4).half()}, "weight must be Float, got Half"),
        ({"hidden": torch.randn(4, 3).T}, "hidden must be contiguous in its last dimension"),
        ({"weight": torch.randn(4, 10).T}, "weight must be contiguous in its last dimension"),
        ({"suppress_ids": torch.tensor([10])}, r"suppress_ids\[0\] is 10, allowed are 0 to 9"),
        ({"suppress_ids": torch.tensor([3, -1])}, r"suppress_ids\[1\] is -1, allowed are 0 to 9"),
        ({"suppress_ids": torch.tensor([1.0])}, "suppress_ids must be Long, got Float"),
        ({"confidence_suppress_ids": torch.tensor([11])}, r"confidence_suppress_ids\[0\] is 11"),
        (
            {"confidence_suppress_ids": torch.zeros(1, 1).long()},
            "confidence_suppress_ids must have shape",
        ),
        ({"temperature": -0.1}, "temperature must be a finite number of at least 0, got -0.1"),
        ({"temperature": math.nan}, "temperature must be a finite number of at least 0, got nan"),
        ({"temperature": math.inf}, "temperature must be a finite number of at least 0, got inf"),
        ({"row_index": None}, "a temperature above 0 needs row_index, seeds and steps"),
        ({"seeds": None}, "a temperature above 0 needs row_index, seeds and steps"),
        ({"steps": None}, "a temperature above 0 needs row_index, seeds and steps"),
        ({"row_index": torch.tensor([0, 1])}, r"row_index must have shape \[3\], got \[2\]"),
        (
            {"row_index": torch.tensor([0, 4, -1])},
            r"row_index\[1\] is 4, allowed are -1 \(unused\) to 3",
        ),
        ({"capacity": 0}, "capacity must be at least 1, got 0"),
        ({"seeds": torch.tensor([1.0, 2.0])}, "seeds must be Long, got Float"),
        ({"steps": torch.tensor([1])}, r"steps must have shape \[2\], got \[1\]"),
    ],
)
def test_errors(changes, message):
    with pytest.raises(RuntimeError, match="head_reduce: " + message):
        call(**changes)


@pytest.mark.parametrize("suppressing", ["suppress_ids", "confidence_suppress_ids"])
def test_logits_that_are_given_stay_as_they_are(suppressing, device):
    logits = torch.randn(3, 40, device=device)
    before = logits.clone()
    ops.logits_reduce(logits, **{suppressing: torch.tensor([3, 5], device=device)})
    assert torch.equal(logits, before)


@pytest.mark.parametrize(
    ("logits", "settings", "message"),
    [
        (torch.randn(3), {}, r"logits_reduce: logits must have shape \[\*, \*\], got \[3\]"),
        (torch.randn(3, 0), {}, r"logits_reduce: logits must have from 1 to .* columns .*, got 0"),
        (torch.randn(3, 4).double(), {}, "logits must be float32, float16 or bfloat16, got Double"),
        (torch.randn(4, 3).T, {}, "logits_reduce: logits must be contiguous in its last dimension"),
        (
            torch.randn(3, 4),
            {"suppress_ids": torch.tensor([4])},
            r"logits_reduce: suppress_ids\[0\] is 4, allowed are 0 to 3",
        ),
        (
            torch.randn(3, 4),
            {"row_index": torch.tensor([0, 1])},
            r"logits_reduce: row_index must have shape \[3\], got \[2\]",
        ),
        (torch.randn(3, 4), {"temperature": 1.0}, "logits_reduce: a temperature above 0 needs"),
    ],
)
def test_logits_reduce_rejects(logits, settings, message):
    with pytest.raises(RuntimeError, match=message):
        ops.logits_reduce(logits, **settings)
