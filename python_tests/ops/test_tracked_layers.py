"""Layers that follow their most-attended rows: the bits of the single operators, messages."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import linear

from dlmcache_cuda import ops
from dlmcache_cuda.ops import track_layers_
from dlmcache_cuda.reference.layers import among_all
from dlmcache_cuda.testing.samples.layers import in_parts
from dlmcache_cuda.testing.samples.tracked_layers import CALLS, tracked_call

WRITTEN = ("k_cache", "v_cache", "inputs", "found")


def with_own_buffers(call: dict) -> dict:
    return call | {name: call[name].clone() for name in WRITTEN}


def one_by_one(
    h, weights, biases, cos_sin, row_index, cu_rows, kv_lens, num_heads, eps, k_cache, v_cache,
    first_layer, inputs, found, tracked_index, cu_tracked, tested, gamma, similarity, window_index,
    cu_window, open_index, cu_open, limits, read_places=None, cu_read=None,
):  # fmt: skip
    """The same by one call for each operator."""
    capacity, head_dim = cos_sin.shape
    scale, width, layers = head_dim**-0.5, num_heads * head_dim, len(k_cache)
    measured = torch.full((layers, len(kv_lens)), torch.inf)
    of_tracked = ops.find_rows(row_index, cu_rows, tracked_index, capacity)
    of_window = ops.find_rows(row_index, cu_rows, window_index, capacity)
    normed = ops.rms_norm(h, weights[6 * first_layer], eps)
    for layer in range(first_layer, layers):
        attn_norm, qkv, out, ff_norm, gate_up, down = weights[6 * layer : 6 * layer + 6]
        bias = biases[layer] if biases else None
        k, v = k_cache[layer], v_cache[layer]
        old = ops.rms_norm(ops.gather_rows(inputs[layer], tracked_index), attn_norm, eps)
        old = linear(old, qkv[:width], None if bias is None else bias[:width])
        none = k[:, :0]
        q_old = ops.rope_scatter_kv_(old, cos_sin, tracked_index, capacity, num_heads, none, none)
        k_old = ops.gather_rows(k, row_index)
        ops.scatter_rows_(inputs[layer], h, row_index)
        projected = linear(normed, qkv, bias)
        q = ops.rope_scatter_kv_(projected, cos_sin, row_index, capacity, num_heads, k, v)
        narrows = read_places is not None and layer + 1 == layers
        if not narrows:
            attended, lse = ops.attention_rows(q, k, v, cu_rows, kv_lens, capacity, scale, True)
        if tested.any():
            q_new = ops.gather_rows(q, of_tracked)
            alike = ops.tracked_similarity(
                q_old, q_new, k, k_old, row_index, cu_rows, cu_tracked, kv_lens, capacity, scale,
                similarity,
            )  # fmt: skip
            measured[layer] = alike.masked_fill(~tested, torch.inf)
        if len(window_index):
            q_window = ops.gather_rows(q, of_window)
            lse = None if narrows else ops.gather_rows(lse, of_window)
            mass = ops.attention_mass(q_window, k, cu_window, kv_lens, capacity, scale, lse)
            score = ops.gather_rows(mass, open_index)
            most = ops.select_rows(score, open_index, cu_open, limits, int(limits.sum()))[0]
            found[layer, most[most >= 0]] = True
        if narrows:
            whole, h, q = h, ops.gather_rows(h, read_places), ops.gather_rows(q, read_places)
            attended = ops.attention_rows(q, k, v, cu_read, kv_lens, capacity, scale)[0]
        h, normed = ops.add_rms_norm(h, linear(attended.flatten(1), out), ff_norm, eps)
        ff_out = linear(ops.swiglu(linear(normed, gate_up)), down)
        if (measured[layer] < gamma).any() or layer + 1 == layers:
            out = h + ff_out
            return among_all(whole, out, read_places) if narrows else out, measured
        h, normed = ops.add_rms_norm(h, ff_out, weights[6 * layer + 6], eps)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CALLS)
def test_gives_the_bits_of_the_single_operators(name, dtype):
    call = tracked_call(dtype, **CALLS[name])
    alone = with_own_buffers(call)
    results, expected = track_layers_(**call), one_by_one(**alone)
    pairs = [*zip(results, expected, strict=True), *((call[n], alone[n]) for n in WRITTEN)]
    for number, (result, expected_) in enumerate(pairs):
        assert torch.equal(result, expected_), f"output {number}"


@pytest.mark.parametrize("name", CALLS)
def test_rows_may_lie_apart(name):
    call = tracked_call(**CALLS[name])
    h = call["h"]
    apart = with_own_buffers(call) | {"h": torch.cat((h, h), dim=1)[:, : h.shape[1]]}
    pairs = [*zip(track_layers_(**call), track_layers_(**apart), strict=True)]
    pairs += [(call[n], apart[n]) for n in WRITTEN]
    for result, expected in pairs:
        assert torch.equal(result, expected)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("name", CALLS)
def test_projections_in_parts_and_packed_matrices(name, packed):
    whole = tracked_call(**CALLS[name])
    queries = whole["num_heads"] * whole["cos_sin"].shape[1]
    call = in_parts(with_own_buffers(whole), queries, packed=packed)
    pairs = [*zip(track_layers_(**call), track_layers_(**whole), strict=True)]
    pairs += [(call[n], whole[n]) for n in WRITTEN]
    for result, expected in pairs:
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-5)


def test_packed_projections_must_be_divided_behind_the_queries():
    for cuts in ((), (30,)):
        call = in_parts(tracked_call(), *cuts, packed=True)
        before = with_own_buffers(call)
        with pytest.raises(RuntimeError, match=r"track_layers_: weights\[1\] is packed .* row 24"):
            track_layers_(**call)
        for name in WRITTEN:
            assert torch.equal(call[name], before[name])


def test_ends_behind_the_first_layer_whose_test_fails():
    """A slot that is alike leaves the other to decide; layers above stay as they are."""
    call = tracked_call(layers=3)
    before = with_own_buffers(call)
    measured = track_layers_(**with_own_buffers(call))[1]
    low, high = sorted(measured[0].tolist())
    assert low < high < 1
    stopped = track_layers_(**call | {"gamma": (low + high) / 2})[1]
    assert torch.equal(stopped[0], measured[0])
    assert stopped[1:].isinf().all()
    for name in WRITTEN:
        assert not torch.equal(call[name][0], before[name][0]), name
        assert torch.equal(call[name][1:], before[name][1:]), name


def test_what_was_found_stays():
    call = tracked_call()
    call["found"][0, 20] = True
    track_layers_(**call)
    assert call["found"][0, 20]
    assert call["found"].sum() == 1 + call["limits"].sum()


def test_found_may_be_part_of_a_wider_tensor():
    call, wide = tracked_call(layers=2), tracked_call(layers=2)
    wide["found"] = torch.cat((wide["found"], wide["found"][:, :1]), dim=1)[:, :-1]
    track_layers_(**call)
    track_layers_(**wide)
    assert torch.equal(call["found"], wide["found"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k_cache": lambda t: t[0]}, r"k_cache must have shape \[\*, \*, \*, \*\]"),
        ({"first_layer": lambda _: 3}, "first_layer is 3, allowed are 0 to 2"),
        ({"first_layer": lambda _: -1}, "first_layer is -1, allowed are 0 to 2"),
        ({"inputs": lambda t: t[:, 1:]}, r"inputs must have shape \[3, 26, 24\], got \[3, 25, 24"),
        ({"inputs": lambda t: t.half()}, "inputs must be Float, got Half"),
        ({"inputs": lambda t: t.mT.contiguous().mT}, "inputs must be contiguous"),
        ({"found": lambda t: t[:2]}, r"found must have shape \[3, 26\], got \[2, 26\]"),
        ({"found": lambda t: t.int()}, "found must be Bool, got Int"),
        ({"found": lambda t: t.t().contiguous().t()}, "found must be contiguous in its last dim"),
        ({"tested": lambda t: t[:1]}, r"tested must have shape \[2\], got \[1\]"),
        ({"tested": lambda t: t.int()}, "tested must be Bool, got Int"),
        ({"similarity": lambda _: 2}, r"similarity must be 0 \(heads\) or 1 \(rows\), got 2"),
        ({"row_index": lambda t: t.flip(0)}, r"row_index\[0\] is 15, allowed in slot 0 are 0 to"),
        ({"tracked_index": lambda t: t + 24}, r"tracked_index\[0\] is 27, allowed are -1"),
        ({"tracked_index": lambda t: t.int()}, "tracked_index must be Long, got Int"),
        ({"cu_tracked": lambda t: t + 1}, r"cu_tracked\[0\] is 1, it must be 0"),
        ({"cu_tracked": lambda t: t * 2}, r"cu_tracked\[2\] is 6, but the list has 3 entries"),
        ({"window_index": lambda t: t - 6}, r"window_index\[0\] is -2, allowed are -1 \(unused\)"),
        ({"cu_window": lambda t: t[1:]}, r"cu_window must have shape \[3\], got \[2\]"),
        ({"open_index": lambda t: t + 26}, r"open_index\[0\] is 26, allowed are -1 \(unused\)"),
        ({"cu_open": lambda t: t.flip(0)}, r"cu_open\[0\] is 14, it must be 0"),
        ({"limits": lambda t: t[:1]}, r"limits must have shape \[2\], got \[1\]"),
        ({"limits": lambda t: -t}, r"limits\[0\] is -2, it must not be negative"),
        (
            {"read_places": lambda t: t.flip(0)},
            r"read_places\[0\] is 7, allowed in slot 0 are -1 and",
        ),
        ({"cu_read": lambda t: t * 2}, r"cu_read\[2\] is 4, but the list has 2 entries"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(change, message):
    call = tracked_call(layers=3, read=((1,), (2,)))
    call |= {name: changed(call[name]) for name, changed in change.items()}
    before = with_own_buffers(call)
    with pytest.raises(RuntimeError, match=f"track_layers_: .*{message}"):
        track_layers_(**call)
    for name in WRITTEN:
        assert torch.equal(call[name], before[name])
