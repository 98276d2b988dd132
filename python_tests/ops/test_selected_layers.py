"""Layers that compute a part of their rows, by one call: the bits of single operators, errors."""

from __future__ import annotations

import pytest
import torch

from dlmcache_cuda import ops
from dlmcache_cuda.ops import select_layers_
from dlmcache_cuda.reference import selected_layers as twin
from dlmcache_cuda.testing.samples.layers import CAPACITY, in_parts
from dlmcache_cuda.testing.samples.selected_layers import CALLS, NOTHING, VALUE, selected_call

WRITTEN = ("k_cache", "v_cache", "delta", "reference")
USED = (
    "attention_rows", "delta_update_", "cosine_drift_", "add_rms_norm", "rms_norm",
    "rope_scatter_kv_", "gather_rows", "scatter_rows_", "select_rows", "swiglu",
)  # fmt: skip


def with_own_buffers(call: dict) -> dict:
    return call | {name: call[name].clone() for name in WRITTEN}


@pytest.fixture
def one_by_one(monkeypatch):
    """The twin, which calls an operator at a time, on the operators themselves."""
    for name in USED:
        monkeypatch.setattr(twin, name, getattr(ops, name))
    contiguous = ops.gather_rows
    monkeypatch.setattr(twin, "gather_rows", lambda src, rows: contiguous(src.contiguous(), rows))
    usual = ops.scatter_rows_
    monkeypatch.setattr(
        twin, "scatter_rows_", lambda dst, rows, index: usual(dst, rows.contiguous(), index)
    )
    return twin.select_layers_


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_gives_the_bits_of_the_single_operators(name, dtype, one_by_one):
    call = selected_call(dtype, **CALLS[name])
    alone = with_own_buffers(call)
    pairs = [(select_layers_(**call), one_by_one(**alone))]
    pairs += [(call[n], alone[n]) for n in WRITTEN]
    for number, (result, expected) in enumerate(pairs):
        assert torch.equal(result, expected), f"output {number}"


@pytest.mark.parametrize("name", CALLS)
def test_rows_may_lie_apart(name):
    call = selected_call(**CALLS[name])
    h = call["h"]
    apart = with_own_buffers(call) | {"h": torch.cat((h, h), dim=1)[:, : h.shape[1]]}
    pairs = [(select_layers_(**call), select_layers_(**apart))]
    pairs += [(call[n], apart[n]) for n in WRITTEN]
    for result, expected in pairs:
        assert torch.equal(result, expected)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("name", CALLS)
def test_projections_in_parts_and_packed_matrices(name, packed):
    whole = selected_call(**CALLS[name])
    heads, kv_heads, size = whole["num_heads"], *whole["k_cache"].shape[2:]
    cuts = [count * size for count in (heads, heads + kv_heads, heads + 2 * kv_heads)]
    cuts = cuts if whole["proxy_rank"] else cuts[:-1]
    call = in_parts(with_own_buffers(whole), *cuts, packed=packed)
    pairs = [(select_layers_(**call), select_layers_(**whole))]
    pairs += [(call[n], whole[n]) for n in WRITTEN]
    for result, expected in pairs:
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "cuts", "row"),
    [
        ({}, (24,), 72),
        ({}, (72,), 24),
        ({"kv_rows": 1}, (24,), 72),
        ({"signal": VALUE, "kv_rows": 2}, (24,), 48),
        ({"signal": VALUE}, (48,), 24),
        ({"signal": NOTHING}, (), 24),
    ],
)
def test_packed_projections_must_be_divided_where_products_begin(settings, cuts, row):
    call = in_parts(selected_call(**settings), *cuts, packed=True)
    before = with_own_buffers(call)
    with pytest.raises(RuntimeError, match=rf"weights\[\d\] is packed .* divided at row {row}"):
        select_layers_(**call)
    for name in WRITTEN:
        assert torch.equal(call[name], before[name])


def test_forced_rows_come_first():
    call = selected_call(signal=VALUE, first=0, numbers=((1, 0),), sizes=(1,), forced=(4,))
    before = with_own_buffers(call)
    select_layers_(**call)
    changed = (call["delta"][0] != before["delta"][0]).any(-1)
    assert changed.nonzero().flatten().tolist() == [4]


def test_rows_that_are_not_carried_stay_as_they_are():
    call = selected_call()
    before = with_own_buffers(call)
    select_layers_(**call)
    others = torch.ones(2 * CAPACITY, dtype=torch.bool)
    others[call["row_index"]] = False
    for name in WRITTEN:
        assert torch.equal(call[name][:, others], before[name][:, others]), name
        assert not torch.equal(call[name], before[name]), name


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"signal": lambda _: 3}, r"signal must be 0 \(none\), 1 \(proxy\) or 2 \(value\), got 3"),
        ({"kv_rows": lambda _: 3}, r"kv_rows must be 0 \(carried\), 1 \(selected\) or 2 .*, got 3"),
        ({"kv_rows": lambda _: 2}, r"kv_rows 2 \(values\) goes with signal 2 \(value\) only"),
        ({"proxy_rank": lambda _: 0}, r"proxy_rank must be positive with signal 1 .*, got 0"),
        ({"signal": lambda _: NOTHING}, r"proxy_rank must be positive .* and 0 without, got 6"),
        ({"proxy_rank": lambda _: 5}, r"weights\[1\] must have shape \[77, 24\], got \[78, 24\]"),
        ({"biases": lambda b: [t[1:] for t in b]}, r"biases\[0\] must have shape \[78\], got"),
        ({"delta": lambda t: t[:, 1:]}, r"delta must have shape \[\*, 26, 24\], got \[1, 25, 24"),
        ({"delta": lambda t: t.repeat(3, 1, 1)}, "delta must be of at most the 2 layers .* got 3"),
        ({"delta": lambda t: t.half()}, "delta must be Float, got Half"),
        ({"delta": lambda t: t.mT.contiguous().mT}, "delta must be contiguous"),
        ({"reference": lambda t: t[..., 1:]}, r"reference must have shape \[1, 26, 6\], got \[1"),
        ({"reference": lambda t: t.half()}, "reference must be Float, got Half"),
        ({"reference": lambda t: t.mT.contiguous().mT}, "reference must be contiguous"),
        ({"numbers": lambda t: t[:1]}, r"numbers must have shape \[2, 2\], got \[1, 2\]"),
        ({"numbers": lambda t: t.int()}, "numbers must be Long, got Int"),
        ({"numbers": lambda t: -t}, r"numbers\[1, 0\] is -2, it must not be negative"),
        ({"numbers": lambda t: t + 1}, r"5 rows do not fit into sizes\[1\] = 3"),
        ({"sizes": lambda _: [3]}, "sizes must be one for each of the 2 layers of k_cache, got 1"),
        ({"sizes": lambda _: [9, 9]}, r"sizes\[0\] is 9, but the first 1 layers compute all of"),
        ({"forced": lambda _: torch.zeros(3, dtype=torch.bool)}, r"forced must have shape \[26\]"),
        ({"forced": lambda _: torch.zeros(26)}, "forced must be Bool, got Float"),
        ({"row_index": lambda t: t.flip(0)}, r"row_index\[0\] is 15, allowed in slot 0 are 0 to"),
        ({"row_index": lambda t: t + 12}, r"row_index\[6\] is 26, allowed are -1 \(unused\) to 25"),
        ({"cu_rows": lambda t: t + 1}, r"cu_rows\[0\] is 1, it must be 0"),
        ({"kv_lens": lambda t: t + 9}, r"kv_lens\[0\] is 20, allowed are 0 to capacity = 13"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(change, message):
    call = selected_call(bias=True)
    call |= {name: changed(call[name]) for name, changed in change.items()}
    before = with_own_buffers(call)
    with pytest.raises(RuntimeError, match=f"select_layers_: .*{message}"):
        select_layers_(**call)
    for name in WRITTEN:
        assert torch.equal(call[name], before[name])
