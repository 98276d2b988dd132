"""Attention mass and rollout: errors, layouts, invariance to batch and threads, conservation."""

from __future__ import annotations

import math

import pytest
import torch
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
    """Arguments of an attention_mass call with random contents."""
    q = torch.randn(sum(rows) + unused, heads, head_size)
    k = torch.randn(len(rows) * capacity, kv_heads, head_size)
    return {
        "q": q.to(device, dtype),
        "k_cache": k.to(device, dtype),
        "cu_rows": torch.tensor([0, *rows], device=device).cumsum(0),
        "kv_lens": torch.tensor(keys, dtype=torch.int64, device=device),
        "capacity": capacity,
        "scale": head_size**-0.5,
    }


def make_rollout(rows: list[int], keys: list[int], capacity: int, **options) -> dict:
    """Arguments of a rollout_step call; each slot's listed rows are random."""
    call = make_call(rows, keys, capacity, **options)
    listed = [torch.randperm(capacity)[:n].sort()[0] + s * capacity for s, n in enumerate(rows)]
    unused = torch.full((len(call["q"]) - sum(rows),), -1)
    row_index = torch.cat([*listed, unused]).to(call["q"].device)
    z = torch.rand(len(rows) * capacity, device=call["q"].device)
    return call | {"z": z, "row_index": row_index}


def exact(call: dict) -> dict:
    return call | {name: call[name].double() for name in ("q", "k_cache")}


WRONG = [
    ({"q": torch.zeros(3, 4)}, r"q must have shape \[\*, \*, \*\], got \[3, 4\]"),
    ({"k_cache": torch.zeros(10, 2, 8)}, r"k_cache must have shape \[12, \*, 8\], got \[10, 2"),
    ({"q": torch.zeros(3, 5, 8)}, "5 heads, which must be a multiple of the 2 heads of k_cache"),
    ({"q": torch.zeros(3, 4, 8).double()}, "must be float32, float16 or bfloat16, got Double"),
    ({"k_cache": torch.zeros(12, 2, 8).half()}, "k_cache must be Float, got Half"),
    ({"q": torch.zeros(3, 8, 4).mT}, "q must be contiguous"),
    ({"k_cache": torch.zeros(12, 8, 2).mT}, "k_cache must be contiguous"),
    ({"cu_rows": torch.tensor([0, 3])}, r"cu_rows must have shape \[3\], got \[2\]"),
    ({"cu_rows": torch.tensor([1, 1, 3])}, r"cu_rows\[0\] is 1, it must be 0"),
    ({"cu_rows": torch.tensor([0, 2, 1])}, r"cu_rows\[2\] is 1, less than the entry before it, 2"),
    ({"cu_rows": torch.tensor([0, 2, 4])}, r"cu_rows\[2\] is 4, but the list has 3 entries"),
    ({"kv_lens": torch.tensor([[6, 6]])}, r"kv_lens must have shape \[\*\], got \[1, 2\]"),
    ({"kv_lens": torch.tensor([6, 6]).int()}, "kv_lens must be Long, got Int"),
    ({"kv_lens": torch.tensor([6, 7])}, r"kv_lens\[1\] is 7, allowed are 0 to capacity = 6"),
    ({"kv_lens": torch.tensor([-1, 6])}, r"kv_lens\[0\] is -1"),
    ({"capacity": 2**62}, "slots of capacity 4611686018427387904 have more positions"),
    ({"capacity": -1}, "capacity must not be negative, got -1"),
    ({"lse": torch.zeros(3, 2)}, r"lse must have shape \[3, 4\], got \[3, 2\]"),
    ({"lse": torch.zeros(3, 4).half()}, "lse must be Float, got Half"),
]


@pytest.mark.parametrize(("change", "message"), WRONG)
@pytest.mark.parametrize("op", ["attention_mass", "rollout_step"])
def test_wrong_arguments_are_refused(op, change, message):
    make = make_call if op == "attention_mass" else make_rollout
    call = make([1, 2], [6, 6], 6, head_size=8)
    with pytest.raises(RuntimeError, match=rf"{op}: .*{message}"):
        getattr(ops, op)(**(call | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"row_weight": torch.zeros(4)}, r"row_weight must have shape \[3\], got \[4\]"),
        ({"row_weight": torch.zeros(3).half()}, "row_weight must be Float, got Half"),
        ({"row_weight": torch.zeros(6)[::2]}, "row_weight must be contiguous"),
    ],
)
def test_wrong_row_weights_are_refused(change, message):
    call = make_call([1, 2], [6, 6], capacity=6, head_size=8)
    with pytest.raises(RuntimeError, match=rf"attention_mass: .*{message}"):
        ops.attention_mass(**(call | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"z": torch.zeros(11)}, r"z must have shape \[12\], got \[11\]"),
        ({"z": torch.zeros(12).double()}, "z must be Float, got Double"),
        ({"row_index": torch.tensor([0, 6])}, r"row_index must have shape \[3\], got \[2\]"),
        ({"row_index": torch.tensor([0, 6, 7]).int()}, "row_index must be Long, got Int"),
        (
            {"row_index": torch.tensor([0, 5, 7])},
            r"row_index\[1\] is 5, allowed in slot 1 are 6 to",
        ),
        ({"row_index": torch.tensor([0, 7, 7])}, r"row_index\[2\] is 7, .* 8 to 11, ascending"),
        ({"row_index": torch.tensor([6, 7, 8])}, r"row_index\[0\] is 6, allowed in slot 0"),
    ],
)
def test_wrong_arguments_of_a_rollout_step_are_refused(change, message):
    call = make_rollout([1, 2], [6, 6], 6, head_size=8)
    with pytest.raises(RuntimeError, match=rf"rollout_step: .*{message}"):
        ops.rollout_step(**(call | change))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("head_size", [2, 24, 64, 128])
@pytest.mark.parametrize(("heads", "kv_heads"), [(3, 3), (6, 2)])
def test_equals_torch_softmax(dtype, head_size, heads, kv_heads, device):
    call = make_call([5], [77], 80, heads, kv_heads, head_size, dtype=dtype, device=device)
    mass = ops.attention_mass(**call)
    k = call["k_cache"][:77].double().repeat_interleave(heads // kv_heads, dim=1)
    weights = torch.einsum("rhd,khd->rhk", call["q"].double(), k).mul(call["scale"]).softmax(-1)
    torch.testing.assert_close(mass[:77].double(), weights.sum((0, 1)), rtol=2e-5, atol=1e-6)
    assert mass[77:].eq(0).all()


def test_log_sum_exps_of_attention_rows_save_a_pass(device):
    call = make_call([3, 9], [40, 600], capacity=600, unused=2, device=device)
    _, lse = ops.attention_rows(**(call | {"v_cache": call["k_cache"]}), return_lse=True)
    torch.testing.assert_close(
        ops.attention_mass(**call, lse=lse), ops.attention_mass(**call), rtol=1e-5, atol=1e-6
    )


def test_the_mass_of_a_slot_is_its_rows_times_heads(device):
    call = make_call([7, 0, 2], [90, 40, 0], capacity=100, device=device)
    mass = ops.attention_mass(**call).view(3, 100)
    torch.testing.assert_close(mass.sum(1).cpu(), torch.tensor([28.0, 0.0, 0.0]), rtol=1e-6, atol=0)
    assert mass[0, 90:].eq(0).all() and mass[1:].eq(0).all()


def test_row_weights_count_rows(device):
    call = make_call([3, 2], [20, 30], capacity=30, device=device)
    weight = torch.tensor([0.0, 2.0, 0.0, 0.0, 1.0], device=device)
    mass = ops.attention_mass(**call, row_weight=weight)
    some = call | {
        "q": call["q"][[1, 4]].contiguous(),
        "cu_rows": torch.tensor([0, 1, 2], device=device),
    }
    factor = torch.tensor([2.0, 1.0], device=device).repeat_interleave(30)
    torch.testing.assert_close(mass, ops.attention_mass(**some) * factor, rtol=1e-6, atol=1e-7)


def test_unused_rows_and_positions_behind_the_keys_are_not_read(device):
    call = make_rollout([2, 3], [5, 8], 10, unused=2, device=device)
    mass_call = {name: call[name] for name in make_call([0], [0], 1)}
    mass, z = ops.attention_mass(**mass_call), ops.rollout_step(**call)
    call["q"][5:] = math.nan
    call["k_cache"][5:10] = call["k_cache"][18:] = math.nan
    assert torch.equal(ops.attention_mass(**mass_call), mass)
    assert torch.equal(ops.rollout_step(**call), z)


def test_large_scores_do_not_overflow(device):
    call = make_call([4], [300], capacity=300, device=device)
    call["q"] *= 1000
    expected = reference.attention_mass(**exact(call))
    torch.testing.assert_close(ops.attention_mass(**call).double(), expected, rtol=5e-3, atol=5e-3)


def test_a_rollout_step_conserves_importance(device):
    call = make_rollout([7, 0, 3], [90, 40, 30], 100, unused=1, device=device)
    call["z"].view(3, 100)[2, 30:] = 0.0
    after, before = ops.rollout_step(**call).view(3, 100), call["z"].view(3, 100)
    torch.testing.assert_close(after.sum(1), before.sum(1), rtol=1e-6, atol=0)
    assert torch.equal(after[1], before[1])


def test_rollout_equals_the_product_of_matrices(device):
    """Row by row: R_l = rownorm(E_l + I), importance = column sums of R_2 R_1."""
    size = 12
    calls = [make_rollout([4], [size], size, device=device) for _ in range(2)]
    product = torch.eye(size, dtype=torch.float64, device=device)
    for call in calls:
        k = call["k_cache"].double().repeat_interleave(2, dim=1)
        weights = torch.einsum("rhd,khd->rhk", call["q"].double(), k).mul(call["scale"])
        matrix = torch.eye(size, dtype=torch.float64, device=device)
        matrix[call["row_index"]] = weights.softmax(-1).mean(1)
        matrix += torch.eye(size, dtype=torch.float64, device=device)
        product = matrix / matrix.sum(1, keepdim=True) @ product
    z = torch.ones(size, device=device)
    for call in reversed(calls):
        z = ops.rollout_step(**(call | {"z": z}))
    torch.testing.assert_close(z.double(), product.sum(0), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_slot_alone_gives_the_same_bits(dtype, device):
    rows, keys = [3, 40, 0, 1, 9], [700, 33, 12, 1300, 96]
    options = {"heads": 14, "kv_heads": 2, "head_size": 32, "dtype": dtype, "device": device}
    call = make_rollout(rows, keys, 1300, **options)
    z = ops.rollout_step(**call).view(5, 1300)
    for slot in range(len(rows)):
        first, last = call["cu_rows"][slot : slot + 2].tolist()
        keys_of_slot = slice(slot * 1300, (slot + 1) * 1300)
        alone = call | {
            "q": call["q"][first:last],
            "k_cache": call["k_cache"][keys_of_slot],
            "z": call["z"][keys_of_slot],
            "row_index": call["row_index"][first:last] - slot * 1300,
            "cu_rows": torch.tensor([0, last - first], device=device),
            "kv_lens": call["kv_lens"][slot : slot + 1],
        }
        assert torch.equal(ops.rollout_step(**alone), z[slot])


def test_number_of_threads_does_not_change_a_bit():
    call = make_call([40, 2], [1100, 600], 1100, 4, 2, 64)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            results.append(ops.attention_mass(**call))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(result, results[0]) for result in results[1:])


@settings(max_examples=40, deadline=None)
@given(
    slots=st.lists(st.tuples(st.integers(0, 40), st.integers(1, 200)), max_size=4),
    unused=st.integers(0, 3),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 5),
    head_size=st.integers(1, 40),
    seed=st.integers(0, 2**31 - 1),
)
def test_any_layout_matches_the_reference(slots, unused, kv_heads, group, head_size, seed):
    torch.manual_seed(seed)
    keys = [slot[1] for slot in slots]
    capacity = max(keys, default=1)
    rows = [min(slot[0], capacity) for slot in slots]
    call = make_rollout(
        rows,
        keys,
        capacity,
        heads=kv_heads * group,
        kv_heads=kv_heads,
        head_size=head_size,
        unused=unused,
    )
    wide = exact(call) | {"z": call["z"].double()}
    expected, same = reference.rollout_step(**wide), reference.rollout_step(**call)
    assert_close_to_reference(ops.rollout_step(**call), expected, same)
