"""Attention of packed rows: errors, layouts, invariance to batch and threads, torch's attention."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from dlmcache_cuda import ops, reference
from dlmcache_cuda.testing.compare import assert_close_to_reference


def make_call(
    rows: list[int],
    keys: list[int],
    capacity: int,
    heads: int = 4,
    kv_heads: int = 2,
    head_size: int = 24,
    unused: int = 0,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> dict:
    """Arguments of a call with random contents."""
    cache = (len(rows) * capacity, kv_heads, head_size)
    return {
        "q": torch.randn(sum(rows) + unused, heads, head_size).to(device, dtype),
        "k_cache": torch.randn(cache).to(device, dtype),
        "v_cache": torch.randn(cache).to(device, dtype),
        "cu_rows": torch.tensor([0, *rows], device=device).cumsum(0),
        "kv_lens": torch.tensor(keys, dtype=torch.int64, device=device),
        "capacity": capacity,
        "scale": head_size**-0.5,
    }


def only_slot(call: dict, slot: int, rows: slice | None = None) -> dict:
    """The same call with one slot only, and of it only some rows."""
    first, last = call["cu_rows"][slot : slot + 2].tolist()
    q = call["q"][first:last][rows or slice(None)].contiguous()
    keys = slice(slot * call["capacity"], (slot + 1) * call["capacity"])
    return call | {
        "q": q,
        "k_cache": call["k_cache"][keys],
        "v_cache": call["v_cache"][keys],
        "cu_rows": torch.tensor([0, len(q)], device=q.device),
        "kv_lens": call["kv_lens"][slot : slot + 1],
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": torch.zeros(3, 4)}, r"q must have shape \[\*, \*, \*\], got \[3, 4\]"),
        ({"k_cache": torch.zeros(10, 2, 8)}, r"k_cache must have shape \[12, \*, 8\], got \[10, 2"),
        ({"k_cache": torch.zeros(12, 2, 7)}, r"k_cache must have shape \[12, \*, 8\]"),
        ({"v_cache": torch.zeros(12, 1, 8)}, r"v_cache must have shape \[12, 2, 8\]"),
        (
            {"q": torch.zeros(3, 5, 8)},
            "5 heads, which must be a multiple of the 2 heads of k_cache",
        ),
        ({"q": torch.zeros(3, 4, 8).double()}, "must be float32, float16 or bfloat16, got Double"),
        ({"k_cache": torch.zeros(12, 2, 8).half()}, "k_cache must be Float, got Half"),
        ({"v_cache": torch.zeros(12, 2, 8).half()}, "v_cache must be Float, got Half"),
        ({"q": torch.zeros(3, 8, 4).mT}, "q must be contiguous"),
        ({"k_cache": torch.zeros(12, 8, 2).mT}, "k_cache must be contiguous"),
        ({"v_cache": torch.zeros(12, 8, 2).mT}, "v_cache must be contiguous"),
        ({"cu_rows": torch.tensor([0, 3])}, r"cu_rows must have shape \[3\], got \[2\]"),
        ({"cu_rows": torch.tensor([0, 1, 3]).int()}, "cu_rows must be Long, got Int"),
        ({"kv_lens": torch.tensor([[6, 6]])}, r"kv_lens must have shape \[\*\], got \[1, 2\]"),
        ({"kv_lens": torch.tensor([6, 6]).int()}, "kv_lens must be Long, got Int"),
        ({"cu_rows": torch.tensor([1, 1, 3])}, r"ascend from 0 .* got cu_rows\[0\] = 1"),
        ({"cu_rows": torch.tensor([0, 2, 1])}, r"got cu_rows\[2\] = 1"),
        ({"cu_rows": torch.tensor([0, 2, 4])}, r"at most the 3 rows, got cu_rows\[2\] = 4"),
        ({"kv_lens": torch.tensor([6, 7])}, r"kv_lens\[1\] is 7, allowed are 0 to capacity = 6"),
        ({"kv_lens": torch.tensor([-1, 6])}, r"kv_lens\[0\] is -1"),
        ({"capacity": 2**62}, "slots of capacity 4611686018427387904 have more positions"),
        ({"capacity": -1}, "capacity must not be negative, got -1"),
    ],
)
def test_wrong_arguments_are_refused(change, message):
    call = make_call([1, 2], [6, 6], capacity=6, head_size=8)
    with pytest.raises(RuntimeError, match=rf"attention_rows: .*{message}"):
        ops.attention_rows(**(call | change))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("head_size", [1, 8, 20, 24, 32, 64, 128, 256])
@pytest.mark.parametrize(("heads", "kv_heads"), [(3, 3), (7, 1)])
def test_equals_torch_attention(dtype, head_size, heads, kv_heads, device):
    call = make_call([5], [77], 80, heads, kv_heads, head_size, dtype=dtype, device=device)
    out, _ = ops.attention_rows(**call)

    def attend(dtype: torch.dtype) -> torch.Tensor:
        q, k, v = (call[name].transpose(0, 1).to(dtype) for name in ("q", "k_cache", "v_cache"))
        k, v = (x[:, :77].repeat_interleave(heads // kv_heads, dim=0) for x in (k, v))
        return F.scaled_dot_product_attention(q[None], k[None], v[None])[0].transpose(0, 1)

    assert_close_to_reference(out, attend(torch.float64), attend(dtype))


def test_log_sum_exp(device):
    call = make_call([3, 2, 2], [40, 0, 9], capacity=40, unused=2, device=device)
    _, lse = ops.attention_rows(**call, return_lse=True)
    exact = call | {name: call[name].double() for name in ("q", "k_cache", "v_cache")}
    _, expected = reference.attention_rows(**exact, return_lse=True)
    torch.testing.assert_close(lse.double(), expected, rtol=1e-6, atol=1e-6)
    assert lse[3:5].eq(-math.inf).all() and lse[7:].eq(0).all()
    assert ops.attention_rows(**call)[1].shape == (0,)


def test_rows_without_keys_and_unused_rows_are_zeros(device):
    call = make_call([2, 3], [0, 8], capacity=8, unused=3, device=device)
    call["q"][5:] = math.nan  # unused rows may hold anything
    out, _ = ops.attention_rows(**call)
    assert out[:2].eq(0).all() and out[5:].eq(0).all()
    assert out[2:5].ne(0).all()


def test_positions_behind_the_keys_are_not_read(device):
    call = make_call([2, 3], [5, 8], capacity=10, device=device)
    expected, _ = ops.attention_rows(**call)
    for slot, keys in enumerate((5, 8)):
        for name in ("k_cache", "v_cache"):
            call[name][slot * 10 + keys : (slot + 1) * 10] = math.nan
    assert torch.equal(ops.attention_rows(**call)[0], expected)


def test_large_scores_do_not_overflow(device):
    call = make_call([4], [300], capacity=300, device=device)
    call["q"] *= 1000
    out, lse = ops.attention_rows(**call, return_lse=True)
    exact = call | {name: call[name].double() for name in ("q", "k_cache", "v_cache")}
    expected, expected_lse = reference.attention_rows(**exact, return_lse=True)
    torch.testing.assert_close(out.double(), expected, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(lse.double(), expected_lse, rtol=1e-6, atol=1e-3)


def test_a_key_that_is_not_finite_stays_in_its_slot(device):
    call = make_call([2, 2], [6, 6], capacity=6, device=device)
    expected, _ = ops.attention_rows(**call)
    call["k_cache"][3] = math.nan
    out, _ = ops.attention_rows(**call)
    assert out[:2].isnan().all()
    assert torch.equal(out[2:], expected[2:])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_slot_alone_gives_the_same_bits(dtype, device):
    rows, keys = [3, 40, 0, 1, 9], [700, 33, 12, 1300, 96]
    call = make_call(rows, keys, 1300, 14, 2, 32, unused=4, dtype=dtype, device=device)
    out, lse = ops.attention_rows(**call, return_lse=True)
    for slot in range(len(rows)):
        first, last = call["cu_rows"][slot : slot + 2].tolist()
        alone, alone_lse = ops.attention_rows(**only_slot(call, slot), return_lse=True)
        assert torch.equal(alone, out[first:last]) and torch.equal(alone_lse, lse[first:last])
        # Nor does a row depend on the other rows of its slot.
        if rows[slot] > 2:
            some, _ = ops.attention_rows(**only_slot(call, slot, slice(1, None, 2)))
            assert torch.equal(some, alone[1::2])


def test_capacity_does_not_change_a_bit(device):
    call = make_call([5], [600], 600, device=device)
    wide = {name: torch.zeros(5000, 2, 24, device=device) for name in ("k_cache", "v_cache")}
    for name, cache in wide.items():
        cache[:600] = call[name]
    expected, _ = ops.attention_rows(**call)
    assert torch.equal(ops.attention_rows(**(call | wide | {"capacity": 5000}))[0], expected)


def test_number_of_threads_does_not_change_a_bit():
    # One key/value head and long keys: with several threads the keys of a tile are shared out.
    call = make_call([3, 2], [2100, 600], 2100, 2, 1, 64)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            results.append(ops.attention_rows(**call, return_lse=True))
    finally:
        torch.set_num_threads(before)
    for out, lse in results[1:]:
        assert torch.equal(out, results[0][0]) and torch.equal(lse, results[0][1])


@settings(max_examples=60, deadline=None)
@given(
    slots=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 260)), max_size=5),
    spare=st.integers(0, 5),
    unused=st.integers(0, 3),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 7),
    head_size=st.integers(1, 40),
    seed=st.integers(0, 2**31 - 1),
)
def test_any_layout_matches_the_reference(slots, spare, unused, kv_heads, group, head_size, seed):
    torch.manual_seed(seed)
    rows, keys = [slot[0] for slot in slots], [slot[1] for slot in slots]
    capacity = max(keys, default=0) + spare
    call = make_call(rows, keys, capacity, kv_heads * group, kv_heads, head_size, unused)
    exact = call | {name: call[name].double() for name in ("q", "k_cache", "v_cache")}
    results = ops.attention_rows(**call, return_lse=True)
    expected = reference.attention_rows(**exact, return_lse=True)
    same_dtype = reference.attention_rows(**call, return_lse=True)
    for result, expected_, same in zip(results, expected, same_dtype, strict=True):
        assert_close_to_reference(result, expected_, same)
