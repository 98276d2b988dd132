"""All layers by one call: to the bit what the operators give one by one, and its messages."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from dlmcache_cuda import ops
from dlmcache_cuda.testing.samples.layers import CAPACITY, HEAD_DIM, WIDTH, layers_call


def one_by_one(
    h, weights, biases, cos_sin, row_index, cu_rows, kv_lens, num_heads, eps, k_cache, v_cache
):
    ff_out = None
    for layer in range(len(k_cache)):
        k, v = k_cache[layer], v_cache[layer]
        attn_norm, qkv, out, ff_norm, gate_up, down = weights[6 * layer : 6 * layer + 6]
        if ff_out is None:
            normed = ops.rms_norm(h, attn_norm, eps)
        else:
            h, normed = ops.add_rms_norm(h, ff_out, attn_norm, eps)
        projected = F.linear(normed, qkv, biases[layer] if biases else None)
        q = ops.rope_scatter_kv_(projected, cos_sin, row_index, CAPACITY, num_heads, k, v)
        attended, _ = ops.attention_rows(q, k, v, cu_rows, kv_lens, CAPACITY, HEAD_DIM**-0.5)
        h, normed = ops.add_rms_norm(h, F.linear(attended.flatten(1), out), ff_norm, eps)
        ff_out = F.linear(ops.swiglu(F.linear(normed, gate_up)), down)
    return h, ff_out


@pytest.fixture(params=[1, 2], ids="{} threads".format)
def _threads(request):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("_threads")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("layers", [1, 2, 5])
def test_the_bits_of_the_single_operators(dtype, bias, layers, device):
    shape = {"layers": layers, "num_heads": 4, "num_kv_heads": 2, "bias": bias, "unused": 2}
    call = layers_call(dtype, device=device, **shape)
    apart = {**call, "k_cache": call["k_cache"].clone(), "v_cache": call["v_cache"].clone()}
    found, expected = ops.forward_layers_(**call), one_by_one(**apart)
    # Behind the used rows -1 stands for none: what is computed there is nobody's.
    used = int(call["cu_rows"][-1])
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a[:used], b[:used])
    assert torch.equal(call["k_cache"], apart["k_cache"])
    assert torch.equal(call["v_cache"], apart["v_cache"])


def test_only_the_listed_rows_of_the_cache_change(device):
    call = layers_call(layers=2, unused=3, device=device)
    before = call["k_cache"].clone(), call["v_cache"].clone()
    ops.forward_layers_(**call)
    others = torch.ones(len(before[0][0]), dtype=torch.bool, device=device)
    others[call["row_index"][call["row_index"] >= 0]] = False
    for cache, old in zip((call["k_cache"], call["v_cache"]), before, strict=True):
        assert torch.equal(cache[:, others], old[:, others])
        assert not torch.isclose(cache[:, ~others], old[:, ~others]).all(-1).any()


def test_rows_that_are_not_listed_are_no_input(device):
    """NaN in a row of the cache behind the keys, or in an unused entry, reaches nothing."""
    call = layers_call(layers=2, unused=2, device=device)
    clean = {**call, "k_cache": call["k_cache"].clone(), "v_cache": call["v_cache"].clone()}
    used = int(call["cu_rows"][-1])
    call["k_cache"][:, 12], call["h"][used:] = torch.nan, torch.nan
    for a, b in zip(ops.forward_layers_(**call), ops.forward_layers_(**clean), strict=True):
        assert torch.equal(a[:used], b[:used])


def changed(weights: list[torch.Tensor], place: int, tensor: torch.Tensor) -> list[torch.Tensor]:
    return [tensor if i == place else old for i, old in enumerate(weights)]


QKV = 9 * HEAD_DIM


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: {"h": c["h"][0]}, r"h must have shape \[\*, \*\], got \[24\]"),
        (lambda c: {"h": c["h"].double()}, "h must be float32, float16 or bfloat16, got Double"),
        (lambda c: {"h": c["h"].t().contiguous().t()}, "h must be contiguous in its last dim"),
        (lambda c: {"k_cache": c["k_cache"][0]}, r"k_cache must have shape \[\*, \*, \*, \*\]"),
        (lambda c: {"k_cache": c["k_cache"].half()}, "k_cache must be Float, got Half"),
        (lambda c: {"v_cache": c["v_cache"].half()}, "v_cache must be Float, got Half"),
        (lambda c: {"v_cache": c["v_cache"][:, 1:]}, r"v_cache must have shape \[1, 26, 3, 8\]"),
        (
            lambda c: {"k_cache": c["k_cache"].transpose(1, 2).contiguous().transpose(1, 2)},
            "k_cache must be contiguous",
        ),
        (
            lambda c: {"v_cache": c["v_cache"].transpose(1, 2).contiguous().transpose(1, 2)},
            "v_cache must be contiguous",
        ),
        (lambda c: {"cos_sin": c["cos_sin"][:, :6]}, r"cos_sin must have shape \[\*, 8\]"),
        (lambda c: {"cos_sin": c["cos_sin"].half()}, "cos_sin must be Float, got Half"),
        (lambda c: {"cos_sin": c["cos_sin"].t().contiguous().t()}, "cos_sin must be contiguous"),
        (lambda c: {"kv_lens": c["kv_lens"][None]}, r"kv_lens must have shape \[\*\]"),
        (lambda c: {"kv_lens": c["kv_lens"].int()}, "kv_lens must be Long, got Int"),
        (
            lambda c: {"kv_lens": c["kv_lens"][:1]},
            r"slots \* capacity = 1 \* 13 rows .*, got 26",
        ),
        (
            lambda c: {"kv_lens": torch.tensor([14, 2])},
            r"kv_lens\[0\] is 14, allowed are 0 to capacity = 13",
        ),
        (lambda c: {"num_heads": 4}, "num_heads is 4, it must be a positive multiple of the 3"),
        (lambda c: {"num_heads": 0}, "num_heads is 0, it must be a positive multiple of the 3"),
        (lambda c: {"weights": c["weights"][:5]}, "six tensors for each of the 1 layers .* got 5"),
        (lambda c: {"biases": [torch.zeros(QKV)] * 2}, "biases must be empty or one .* got 2"),
        (
            lambda c: {"biases": [torch.zeros(QKV - 1)]},
            rf"biases\[0\] must have shape \[{QKV}\], got \[{QKV - 1}\]",
        ),
        (
            lambda c: {"weights": changed(c["weights"], 0, torch.zeros(WIDTH + 1))},
            r"weights\[0\] must have shape \[24\], got \[25\]",
        ),
        (
            lambda c: {"weights": changed(c["weights"], 3, torch.zeros(2 * WIDTH)[::2])},
            r"weights\[3\] must be contiguous",
        ),
        (
            lambda c: {"weights": changed(c["weights"], 1, torch.zeros(QKV + 1, WIDTH))},
            rf"weights\[1\] must have shape \[{QKV}, 24\]",
        ),
        (
            lambda c: {"weights": changed(c["weights"], 2, torch.zeros(WIDTH, 25))},
            r"weights\[2\] must have shape \[24, 24\], got \[24, 25\]",
        ),
        (
            lambda c: {"weights": changed(c["weights"], 4, torch.zeros(7, WIDTH))},
            r"weights\[4\] must have an even number of rows, gate and up, got \[7, 24\]",
        ),
        (
            lambda c: {"weights": changed(c["weights"], 5, torch.zeros(WIDTH, 41))},
            r"weights\[5\] must have shape \[24, 40\], got \[24, 41\]",
        ),
        (
            lambda c: {"weights": changed(c["weights"], 5, torch.zeros(WIDTH, 40).half())},
            r"weights\[5\] must be Float, got Half",
        ),
        (
            lambda c: {"row_index": c["row_index"][1:]},
            r"row_index must have shape \[8\], got \[7\]",
        ),
        (
            lambda c: {"row_index": c["row_index"] + 20},
            r"row_index\[\d\] is 26, allowed are -1 \(unused\) to 25",
        ),
        (lambda c: {"cu_rows": c["cu_rows"][1:]}, r"cu_rows must have shape \[3\], got \[2\]"),
        (
            lambda c: {"cu_rows": torch.tensor([0, 5, 9])},
            r"cu_rows must ascend from 0 to at most the 8 rows",
        ),
    ],
)
def test_rejects(change, message):
    call = layers_call()
    before = call["k_cache"].clone()
    with pytest.raises(RuntimeError, match=f"forward_layers_: .*{message}"):
        ops.forward_layers_(**{**call, **change(call)})
    assert torch.equal(call["k_cache"], before)


def test_rejects_an_odd_head_size():
    call = layers_call()
    for name in ("k_cache", "v_cache"):
        call[name] = torch.zeros(1, 26, 3, 7)
    call["cos_sin"] = torch.zeros(CAPACITY, 7)
    with pytest.raises(RuntimeError, match="forward_layers_: the head size .* must be even, got 7"):
        ops.forward_layers_(**call)
