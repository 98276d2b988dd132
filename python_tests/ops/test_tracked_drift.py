"""tracked_similarity: errors, what it is made of, invariance to batch and threads."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dlmcache_cuda import ops, reference
from dlmcache_cuda.testing.compare import assert_close_to_reference

DATA = ("q_old", "q_new", "k_cache", "k_old")


def make_call(
    tracked: list[int],
    replaced: list[int],
    keys: list[int],
    capacity: int,
    heads: int = 4,
    kv_heads: int = 2,
    head_size: int = 24,
    unused: int = 0,
    similarity: int = 0,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> dict:
    """Arguments of a call with random contents."""
    q_old = torch.randn(sum(tracked) + unused, heads, head_size)
    data = {
        "q_old": q_old,
        "q_new": q_old + 0.3 * torch.randn(q_old.shape),
        "k_cache": torch.randn(len(keys) * capacity, kv_heads, head_size),
        "k_old": torch.randn(sum(replaced) + unused, kv_heads, head_size),
    }
    listed = [torch.randperm(capacity)[:n].sort()[0] + s * capacity for s, n in enumerate(replaced)]
    return {name: tensor.to(device, dtype) for name, tensor in data.items()} | {
        "row_index": torch.cat([*listed, torch.full((unused,), -1)]).to(device),
        "cu_rows": torch.tensor([0, *replaced], device=device).cumsum(0),
        "cu_tracked": torch.tensor([0, *tracked], device=device).cumsum(0),
        "kv_lens": torch.tensor(keys, dtype=torch.int64, device=device),
        "capacity": capacity,
        "scale": head_size**-0.5,
        "similarity": similarity,
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q_old": torch.zeros(3, 4)}, r"q_old must have shape \[\*, \*, \*\], got \[3, 4\]"),
        ({"q_new": torch.zeros(2, 4, 8)}, r"q_new must have shape \[3, 4, 8\], got \[2, 4, 8\]"),
        ({"k_cache": torch.zeros(11, 2, 8)}, r"k_cache must have shape \[12, 2, 8\], got \[11"),
        ({"k_cache": torch.zeros(12, 3, 8)}, "4 heads, which must be a multiple of the 3 heads"),
        ({"k_old": torch.zeros(4, 2, 8)}, r"k_old must have shape \[3, 2, 8\], got \[4, 2, 8\]"),
        ({"q_old": torch.zeros(3, 4, 8).long()}, "must be float32, float16 or bfloat16, got Long"),
        ({"q_new": torch.zeros(3, 4, 8).half()}, "q_new must be Float, got Half"),
        ({"k_cache": torch.zeros(12, 2, 8).half()}, "k_cache must be Float, got Half"),
        ({"k_old": torch.zeros(3, 2, 8).half()}, "k_old must be Float, got Half"),
        ({"q_new": torch.zeros(3, 8, 4).mT}, "q_new must be contiguous"),
        ({"k_old": torch.zeros(3, 8, 2).mT}, "k_old must be contiguous"),
        ({"row_index": torch.tensor([0, 6, 7]).int()}, "row_index must be Long, got Int"),
        ({"row_index": torch.tensor([0, 5, 7])}, r"row_index\[1\] is 5, allowed in slot 1 are 6"),
        ({"row_index": torch.tensor([0, 7, 7])}, r"row_index\[2\] is 7, .* ascending"),
        ({"cu_rows": torch.tensor([0, 3])}, r"cu_rows must have shape \[3\], got \[2\]"),
        ({"cu_rows": torch.tensor([0, 2, 4])}, r"cu_rows\[2\] is 4, but the list has 3 entries"),
        ({"cu_tracked": torch.tensor([0, 2, 4])}, r"cu_tracked\[2\] is 4, but the list has 3"),
        ({"cu_tracked": torch.tensor([0, 2, 1])}, r"cu_tracked\[2\] is 1, less than the entry"),
        ({"kv_lens": torch.tensor([6, 7])}, r"kv_lens\[1\] is 7, allowed are 0 to capacity = 6"),
        ({"capacity": 2**62}, "slots of capacity 4611686018427387904 have more positions"),
        ({"capacity": -1}, "capacity must not be negative, got -1"),
        ({"similarity": 2}, r"similarity must be 0 \(heads\) or 1 \(rows\), got 2"),
    ],
)
def test_wrong_arguments_are_refused(change, message):
    call = make_call([1, 2], [1, 2], [6, 6], capacity=6, head_size=8)
    with pytest.raises(RuntimeError, match=rf"tracked_similarity: .*{message}"):
        ops.tracked_similarity(**(call | change))


@pytest.mark.parametrize("similarity", [0, 1])
def test_what_did_not_change_is_similar(similarity, device):
    call = make_call([2], [5], [60], 64, similarity=similarity, device=device)
    call["q_new"] = call["q_old"]
    call["k_old"] = call["k_cache"][call["row_index"]]
    torch.testing.assert_close(
        ops.tracked_similarity(**call).cpu(), torch.ones(1), rtol=0, atol=3e-7
    )


@pytest.mark.parametrize("similarity", [0, 1])
def test_slots_without_tracked_rows_or_keys_are_similar(similarity, device):
    call = make_call([0, 2, 1], [2, 0, 1], [6, 0, 6], 6, similarity=similarity, device=device)
    result = ops.tracked_similarity(**call)
    assert result[:2].eq(1).all() and result[2] < 1


def test_one_head_has_a_trivial_cosine_over_heads(device):
    call = make_call([1], [4], [9], 9, heads=1, kv_heads=1, device=device)
    torch.testing.assert_close(
        ops.tracked_similarity(**call).cpu(), torch.ones(1), rtol=0, atol=1e-6
    )
    assert ops.tracked_similarity(**(call | {"similarity": 1})) < 0.99


def test_weights_below_the_least_norm_count_as_dissimilar(device):
    """Scores so far apart that all keys but one have no weight: their cosines are 0."""
    call = make_call([1], [0], [10], 10, heads=2, kv_heads=1, head_size=2, device=device)
    call["q_old"][:] = call["q_new"][:] = torch.tensor([100.0, 0.0])
    call["k_cache"][:] = 0.0
    call["k_cache"][3, 0, 0] = 1.0
    result = ops.tracked_similarity(**call)
    torch.testing.assert_close(result.cpu(), torch.tensor([0.1]), rtol=1e-5, atol=0)


@pytest.mark.parametrize("similarity", [0, 1])
def test_unused_rows_and_positions_behind_the_keys_are_not_read(similarity, device):
    call = make_call([1, 2], [2, 3], [5, 8], 10, unused=2, similarity=similarity, device=device)
    expected = ops.tracked_similarity(**call)
    call["q_old"][3:] = call["q_new"][3:] = call["k_old"][5:] = math.nan
    call["k_cache"][5:10] = call["k_cache"][18:] = math.nan
    assert torch.equal(ops.tracked_similarity(**call), expected)


@pytest.mark.parametrize("similarity", [0, 1])
def test_a_key_that_is_not_finite_stays_in_its_slot(similarity, device):
    call = make_call([1, 1], [2, 2], [6, 6], 6, similarity=similarity, device=device)
    expected = ops.tracked_similarity(**call)
    call["k_cache"][:6] = math.nan
    result = ops.tracked_similarity(**call)
    assert result[0].isnan() and result[1] == expected[1]


def test_the_arguments_are_left_alone(device):
    call = make_call([1, 2], [2, 3], [5, 8], 10, device=device)
    before = {name: call[name].clone() for name in DATA}
    ops.tracked_similarity(**call)
    assert all(torch.equal(call[name], before[name]) for name in DATA)


@pytest.mark.parametrize("similarity", [0, 1])
def test_a_slot_alone_gives_the_same_bits(similarity, device):
    tracked, replaced, keys = [1, 20, 0, 2], [16, 3, 4, 40], [700, 33, 12, 1300]
    options = {"heads": 14, "kv_heads": 2, "head_size": 32, "device": device}
    call = make_call(tracked, replaced, keys, 1300, similarity=similarity, **options)
    result = ops.tracked_similarity(**call)
    for slot in range(len(keys)):
        rows = slice(*call["cu_tracked"][slot : slot + 2].tolist())
        entries = slice(*call["cu_rows"][slot : slot + 2].tolist())
        alone = call | {
            "q_old": call["q_old"][rows],
            "q_new": call["q_new"][rows],
            "k_cache": call["k_cache"][slot * 1300 : (slot + 1) * 1300],
            "k_old": call["k_old"][entries],
            "row_index": call["row_index"][entries] - slot * 1300,
            "cu_rows": torch.tensor([0, replaced[slot]], device=device),
            "cu_tracked": torch.tensor([0, tracked[slot]], device=device),
            "kv_lens": call["kv_lens"][slot : slot + 1],
        }
        assert torch.equal(ops.tracked_similarity(**alone), result[slot : slot + 1])


@pytest.mark.parametrize("similarity", [0, 1])
def test_number_of_threads_does_not_change_a_bit(similarity):
    call = make_call([3, 2], [100, 20], [2100, 600], 2100, 8, 4, 64, similarity=similarity)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            results.append(ops.tracked_similarity(**call))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results[1:])


@settings(max_examples=40, deadline=None)
@given(
    slots=st.lists(
        st.tuples(st.integers(0, 20), st.integers(0, 60), st.integers(0, 200)), max_size=4
    ),
    unused=st.integers(0, 3),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 5),
    head_size=st.integers(1, 40),
    similarity=st.integers(0, 1),
    seed=st.integers(0, 2**31 - 1),
)
def test_any_layout_matches_the_reference(
    slots, unused, kv_heads, group, head_size, similarity, seed
):
    torch.manual_seed(seed)
    capacity = max((slot[2] for slot in slots), default=0) + 1
    call = make_call(
        [slot[0] for slot in slots],
        [min(slot[1], capacity) for slot in slots],
        [slot[2] for slot in slots],
        capacity,
        kv_heads * group,
        kv_heads,
        head_size,
        unused,
        similarity,
    )
    wide = call | {name: call[name].double() for name in DATA}
    expected, same = reference.tracked_similarity(**wide), reference.tracked_similarity(**call)
    assert_close_to_reference(ops.tracked_similarity(**call), expected, same)
