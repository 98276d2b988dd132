"""All layers by one call: the bits of the single operators, unused entries, messages."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from dlmcache_cuda import ops
from dlmcache_cuda.ops import forward_layers_
from dlmcache_cuda.reference.layers import among_all
from dlmcache_cuda.testing.samples.layers import in_parts, read_rows

WIDTH, HEADS, KV_HEADS, HEAD_SIZE, INNER, EPS = 48, 4, 2, 12, 80, 1e-5
QKV = (HEADS + 2 * KV_HEADS) * HEAD_SIZE


def make_call(
    rows=(5, 0, 3),
    keys=(13, 7, 9),
    capacity=14,
    unused=0,
    layers=3,
    biases=False,
    read=None,
    dtype=torch.float32,
    device="cpu",
) -> dict:
    """Arguments of a call with random contents; the rows are the last of each slot's keys. ``read``
    says which rows of each slot are read."""
    shapes = ((WIDTH,), (QKV, WIDTH), (WIDTH, HEADS * HEAD_SIZE))
    shapes += ((WIDTH,), (2 * INNER, WIDTH), (WIDTH, INNER))
    angles = torch.rand(capacity, HEAD_SIZE // 2) * 6
    index = [
        slot * capacity + torch.arange(keys[slot] - count, keys[slot])
        for slot, count in enumerate(rows)
    ]
    cache = (layers, len(rows) * capacity, KV_HEADS, HEAD_SIZE)

    def randn(*shape: int) -> torch.Tensor:
        return (torch.randn(*shape) * shape[-1] ** -0.5).to(device, dtype)

    call = {
        "h": torch.randn(sum(rows) + unused, WIDTH).to(device, dtype),
        "weights": [randn(*shape) for _ in range(layers) for shape in shapes],
        "biases": [randn(QKV) for _ in range(layers)] if biases else [],
        "cos_sin": torch.cat((angles.cos(), angles.sin()), dim=-1).to(device),
        "row_index": torch.cat([*index, torch.full((unused,), -1)]).to(device),
        "cu_rows": torch.tensor([0, *rows], device=device).cumsum(0),
        "kv_lens": torch.tensor(keys, device=device),
        "num_heads": HEADS,
        "eps": EPS,
        "k_cache": torch.randn(cache).to(device, dtype),
        "v_cache": torch.randn(cache).to(device, dtype),
    }
    return call if read is None else call | read_rows(call["cu_rows"], read)


def linear(x, weight, bias=None):
    """As the matrix is stored."""
    if weight.is_mkldnn:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return functional.linear(x, weight, bias)


def with_own_caches(call: dict) -> dict:
    return call | {name: call[name].clone() for name in ("k_cache", "v_cache")}


def one_by_one(
    h, weights, biases, cos_sin, row_index, cu_rows, kv_lens, num_heads, eps, k_cache, v_cache,
    read_places=None, cu_read=None,
):  # fmt: skip
    """The same by one call for each operator."""
    capacity, scale = len(cos_sin), k_cache.shape[-1] ** -0.5
    each = len(weights) // len(k_cache)
    parts = each - 5
    normed = ops.rms_norm(h, weights[0], eps)
    for layer in range(len(k_cache)):
        _, *w_qkv, w_attn_out, ff_norm, w_gate_up, w_ff_out = weights[each * layer :][:each]
        k, v = k_cache[layer], v_cache[layer]
        added = biases[parts * layer :][:parts] if biases else [None] * parts
        pairs = zip(w_qkv, added, strict=True)
        qkv = torch.cat([linear(normed, w, b) for w, b in pairs], dim=1)
        q = ops.rope_scatter_kv_(qkv, cos_sin, row_index, capacity, num_heads, k, v)
        whole = h
        if read_places is not None and layer + 1 == len(k_cache):
            q, h = ops.gather_rows(q, read_places), ops.gather_rows(h, read_places)
            cu_rows = cu_read
        out, _ = ops.attention_rows(q, k, v, cu_rows, kv_lens, capacity, scale)
        h, normed = ops.add_rms_norm(h, linear(out.flatten(1), w_attn_out), ff_norm, eps)
        ff_out = linear(ops.swiglu(linear(normed, w_gate_up)), w_ff_out)
        if layer + 1 < len(k_cache):
            h, normed = ops.add_rms_norm(h, ff_out, weights[each * layer + each], eps)
    return h + ff_out if read_places is None else among_all(whole, h + ff_out, read_places)


def assert_same_bits(call: dict) -> None:
    alone = with_own_caches(call)
    pairs = [(forward_layers_(**call), one_by_one(**alone))]
    pairs += [(call[name], alone[name]) for name in ("k_cache", "v_cache")]
    for number, (result, expected_) in enumerate(pairs):
        assert torch.equal(result, expected_), f"output {number}"


LAYOUTS = {
    "ragged": {},
    "one-layer": {"layers": 1},
    "unused": {"unused": 3},
    "no-rows": {"rows": (0, 0), "keys": (4, 0)},
    # Few rows over many keys, which several threads share, and rows enough for several threads.
    "long": {"rows": (2,), "keys": (1300,), "capacity": 1300, "layers": 2},
    "many-rows": {"rows": (150, 220), "keys": (200, 220), "capacity": 220, "layers": 2},
    "few-read": {"read": ((1, 4), (), (0, -1))},
    "few-read-of-one-layer": {"read": ((2,), (), (0, 1, 2)), "layers": 1},
    "few-read-of-two-layers": {"read": ((), (), (1,)), "layers": 2, "unused": 2},
    "nothing-read": {"read": ((), (), ())},
    "all-read": {"read": (range(5), (), range(3))},
}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("biases", [False, True], ids=["plain", "biases"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gives_the_bits_of_the_single_operators(layout, dtype, biases, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert_same_bits(make_call(dtype=dtype, biases=biases, **LAYOUTS[layout]))
    finally:
        torch.set_num_threads(before)


CUTS = {"whole": (), "queries-apart": (48,), "elsewhere": (20, 60)}


@pytest.mark.parametrize("cuts", CUTS)
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
@pytest.mark.parametrize("biases", [False, True], ids=["plain", "biases"])
def test_projections_in_parts_and_packed_matrices(cuts, packed, biases):
    for layout in ("ragged", "unused", "one-layer", "no-rows", "few-read", "many-rows"):
        call = make_call(biases=biases, **LAYOUTS[layout])
        assert_same_bits(in_parts(call, *CUTS[cuts], packed=packed))


def test_packed_and_plain_matrices_together(packed_dtype):
    call = make_call(biases=True, dtype=packed_dtype, read=((1, 4), (), (0,)))
    packed = in_parts(call, packed=True)["weights"]
    for chosen in ((1,), (2, 4), (5,)):
        weights = [
            mine if place % 6 in chosen else plain
            for place, (mine, plain) in enumerate(zip(packed, call["weights"], strict=True))
        ]
        assert_same_bits(call | {"weights": weights})


def test_slices_of_wider_tensors(device):
    call = make_call(biases=True, device=device)
    call["h"] = torch.randn(8, WIDTH + 5, device=device)[:, 3 : 3 + WIDTH]
    # Projections with a proxy below them, and a matrix whose rows lie apart.
    call["weights"][1] = torch.randn(QKV + 7, WIDTH, device=device)[:QKV]
    call["weights"][8] = torch.randn(WIDTH, HEADS * HEAD_SIZE + 1, device=device)[:, 1:]
    assert_same_bits(call)


def test_unused_entries_write_nothing(device):
    call = make_call(unused=4, biases=True, device=device)
    call["h"][8:] = float("nan")
    before = with_own_caches(call)
    result = forward_layers_(**call)
    listed = call["row_index"][:8]
    others = torch.ones(call["k_cache"].shape[1], dtype=torch.bool, device=device)
    others[listed] = False
    for name in ("k_cache", "v_cache"):
        assert torch.equal(call[name][:, others], before[name][:, others])
        assert (call[name][:, listed] != before[name][:, listed]).any(-1).all()
    # Nor do they change what is used.
    used = before | {"h": call["h"][:8], "row_index": listed}
    expected = forward_layers_(**used)
    torch.testing.assert_close(result[:8], expected, rtol=1e-5, atol=1e-5)


def test_unused_entries_of_zeros_stay_zeros(device):
    call = make_call(unused=2, biases=True, device=device)
    call["h"][8:] = 0
    result = forward_layers_(**call)
    assert not result[8:].any() and result[:8].any(-1).all()


def changed(name: str, place: int, change) -> dict:
    """One tensor of a list, changed."""
    return {name: lambda tensors: [change(t) if i == place else t for i, t in enumerate(tensors)]}


def transposed(tensor: torch.Tensor) -> torch.Tensor:
    """The same numbers, the last two dimensions the other way round in memory."""
    return tensor.mT.contiguous().mT


def test_of_rows_that_are_not_read_there_are_keys_and_values(device):
    call = make_call(device=device)
    few = with_own_caches(call) | read_rows(call["cu_rows"], ((1, 4), (), (2,)))
    before = call["h"].clone()
    whole, of_few = forward_layers_(**call), forward_layers_(**few)
    for name in ("k_cache", "v_cache"):
        assert torch.equal(call[name], few[name])
    read = [1, 4, 7]
    torch.testing.assert_close(of_few[read], whole[read], rtol=1e-5, atol=1e-5)
    # The others come out of all layers but the last.
    before_last, layers = with_own_caches(call), len(call["k_cache"])
    for name in ("weights", "k_cache", "v_cache"):
        given = before_last[name]
        before_last[name] = given[: len(given) * (layers - 1) // layers]
    unread = [0, 2, 3, 5, 6]
    assert torch.equal(of_few[unread], forward_layers_(**before_last)[unread])
    assert torch.equal(call["h"], before)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"h": lambda t: t[0]}, r"h must have shape \[\*, \*\], got \[48\]"),
        ({"k_cache": lambda t: t[0]}, r"k_cache must have shape \[\*, \*, \*, \*\], got \[42, 2"),
        ({"cos_sin": lambda t: t[:, 2:]}, r"cos_sin must have shape \[\*, 12\], got \[14, 10\]"),
        ({"kv_lens": lambda t: t[None]}, r"kv_lens must have shape \[\*\], got \[1, 3\]"),
        ({"v_cache": lambda t: t[:2]}, r"v_cache must have shape \[3, 42, 2, 12\], got \[2, 42"),
        (
            {"cos_sin": lambda t: t[1:]},
            r"k_cache must have slots \* capacity = 3 \* 13 rows "
            r"\(entries of kv_lens, rows of cos_sin\), got 42",
        ),
        ({"kv_lens": lambda t: t[1:]}, r"slots \* capacity = 2 \* 14 rows .*, got 42"),
        ({"num_heads": lambda _: 3}, "num_heads is 3, it must be a positive multiple of the 2 "),
        ({"num_heads": lambda _: 0}, "num_heads is 0, it must be a positive multiple of the 2 "),
        ({"num_heads": lambda _: -2}, "num_heads is -2, it must be a positive multiple of the 2 "),
        (
            {"k_cache": lambda t: t[:, :, :0], "v_cache": lambda t: t[:, :, :0]},
            "num_heads is 4, it must be a positive multiple of the 0 heads of k_cache",
        ),
        (
            {name: lambda t: t[..., :11] for name in ("k_cache", "v_cache", "cos_sin")},
            r"the head size \(last dimension of k_cache\) must be even, got 11",
        ),
        (
            {"weights": lambda w: w[1:]},
            "weights must be six tensors or more for each of the 3 .* got 17",
        ),
        (
            {"k_cache": lambda t: t[:0], "v_cache": lambda t: t[:0], "weights": lambda w: []},
            "weights must be six tensors or more for each of the 0 layers of k_cache, .* got 0",
        ),
        (
            {"biases": lambda b: b[1:]},
            "biases must be empty or 1 for each of the 3 layers of k_cache, got 2",
        ),
        (changed("weights", 4, lambda t: t[0]), r"weights\[4\] must have shape \[\*, 48\], got"),
        (
            changed("weights", 4, lambda t: t[1:]),
            r"weights\[4\] must have an even number of rows, gate and up, got \[159, 48\]",
        ),
        (changed("weights", 0, lambda t: t[1:]), r"weights\[0\] must have shape \[48\], got \[47"),
        (changed("weights", 7, lambda t: t[1:]), r"weights\[7\] must have shape \[96, 48\], got"),
        (changed("weights", 8, lambda t: t[:, 1:]), r"weights\[8\] must have shape \[48, 48\], g"),
        (changed("weights", 15, lambda t: t[1:]), r"weights\[15\] must have shape \[48\], got"),
        (changed("weights", 16, lambda t: t[2:]), r"weights\[16\] must have shape \[160, 48\], g"),
        (changed("weights", 5, lambda t: t[:, 1:]), r"weights\[5\] must have shape \[48, 80\], g"),
        (changed("biases", 2, lambda t: t[1:]), r"biases\[2\] must have shape \[96\], got \[95\]"),
        ({"h": lambda t: t.double()}, "h must be float32, float16 or bfloat16, got Double"),
        ({"k_cache": lambda t: t.half()}, "k_cache must be Float, got Half"),
        ({"v_cache": lambda t: t.bfloat16()}, "v_cache must be Float, got BFloat16"),
        (changed("weights", 9, lambda t: t.half()), r"weights\[9\] must be Float, got Half"),
        (changed("weights", 10, lambda t: t.half()), r"weights\[10\] must be Float, got Half"),
        (changed("biases", 1, lambda t: t.half()), r"biases\[1\] must be Float, got Half"),
        ({"cos_sin": lambda t: t.half()}, "cos_sin must be Float, got Half"),
        ({"h": transposed}, "h must be contiguous in its last dimension"),
        (
            changed("weights", 6, lambda t: t.repeat_interleave(2)[::2]),
            r"weights\[6\] must be contiguous",
        ),
        ({"cos_sin": transposed}, "cos_sin must be contiguous"),
        ({"k_cache": transposed}, "k_cache must be contiguous"),
        ({"v_cache": transposed}, "v_cache must be contiguous"),
        ({"row_index": lambda t: t[1:]}, r"row_index must have shape \[8\], got \[7\]"),
        ({"row_index": lambda t: t.int()}, "row_index must be Long, got Int"),
        ({"row_index": lambda t: t.repeat_interleave(2)[::2]}, "row_index must be contiguous"),
        ({"row_index": lambda t: t + 6}, r"row_index\[7\] is 42, allowed are -1 \(unused\) to 41"),
        ({"row_index": lambda t: t - 10}, r"row_index\[0\] is -2, allowed are -1 \(unused\) to 41"),
        ({"cu_rows": lambda t: t[1:]}, r"cu_rows must have shape \[4\], got \[3\]"),
        ({"cu_rows": lambda t: t.int()}, "cu_rows must be Long, got Int"),
        ({"cu_rows": lambda t: t + 1}, r"ascend from 0 .* got cu_rows\[0\] = 1"),
        ({"cu_rows": lambda t: t * 2}, r"at most the 8 rows, got cu_rows\[1\] = 10"),
        ({"cu_rows": lambda t: t[[0, 3, 2, 3]]}, r"must ascend .* got cu_rows\[2\] = 5"),
        ({"kv_lens": lambda t: t.int()}, "kv_lens must be Long, got Int"),
        ({"kv_lens": lambda t: t + 2}, r"kv_lens\[0\] is 15, allowed are 0 to capacity = 14"),
        ({"kv_lens": lambda t: t - 8}, r"kv_lens\[1\] is -1, allowed are 0 to capacity = 14"),
        ({"cu_read": lambda _: None}, "must be given together, got only read_places"),
        ({"read_places": lambda _: None}, "must be given together, got only cu_read"),
        ({"read_places": lambda t: t.int()}, "read_places must be Long, got Int"),
        (
            {"read_places": lambda t: t + 2},
            r"read_places\[2\] is 8, allowed are -1 \(unused\) to 7",
        ),
        (
            {"read_places": lambda t: t.flip(0)},
            r"read_places\[0\] is 6, allowed in slot 0 are -1 a",
        ),
        ({"read_places": lambda t: t.repeat(3)}, "read_places has 9 entries, more than the 8 rows"),
        ({"cu_read": lambda t: t[1:]}, r"cu_read must have shape \[4\], got \[3\]"),
        ({"cu_read": lambda t: t + 1}, r"cu_read\[0\] is 1, it must be 0"),
        ({"cu_read": lambda t: t * 2}, r"cu_read\[3\] is 6, but the list has 3 entries"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(changes, message):
    assert_refused(make_call(biases=True, read=((1, 4), (), (1,))), changes, message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            changed("weights", 2, lambda t: t[1:]),
            r"weights\[1\] to weights\[2\] must have 96 rows ",
        ),
        (
            changed("weights", 8, lambda t: t[1:]),
            r"weights\[8\] must have shape \[48, 48\], got \[47",
        ),
        (changed("weights", 9, lambda t: t[:, 1:]), r"weights\[9\] must have shape \[48, 48\], g"),
        (changed("weights", 9, lambda t: t.half()), r"weights\[9\] must be Float, got Half"),
        (changed("weights", 5, lambda t: t[1:]), r"weights\[5\] must have an even number of rows"),
        (changed("biases", 3, lambda t: t[1:]), r"biases\[3\] must have shape \[48\], got \[47\]"),
        (
            {"biases": lambda b: b[1:]},
            "biases must be empty or 2 for each of the 3 layers of k_cache, got 5",
        ),
    ],
)
def test_wrong_parts_are_refused_before_anything_is_written(changes, message):
    assert_refused(in_parts(make_call(biases=True), 48), changes, message)


def assert_refused(call: dict, changes: dict, message: str) -> None:
    call |= {name: change(call[name]) for name, change in changes.items()}
    before = with_own_caches(call)
    with pytest.raises(RuntimeError, match=f"forward_layers_: .*{message}"):
        forward_layers_(**call)
    assert torch.equal(call["k_cache"], before["k_cache"])
    assert torch.equal(call["v_cache"], before["v_cache"])
