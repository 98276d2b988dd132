"""What is particular about RoPE into the cache: agreement with transformers, geometry, messages."""

from __future__ import annotations

import pytest
import torch

from dlmcache_cuda.ops import rope_scatter_kv_

CAPACITY, HEADS, KV_HEADS, HEAD_DIM = 8, 4, 2, 16
WIDTH = (HEADS + 2 * KV_HEADS) * HEAD_DIM


def angles_to_cos_sin(angles: torch.Tensor) -> torch.Tensor:
    return torch.cat((angles.cos(), angles.sin()), dim=-1)


def make_inputs(slots=2, index=(1, 6, 9), dtype=torch.float32) -> dict:
    inverse_frequency = 10000.0 ** (-torch.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    return {
        "qkv": torch.randn(len(index), WIDTH).to(dtype),
        "cos_sin": angles_to_cos_sin(torch.arange(CAPACITY)[:, None] * inverse_frequency),
        "row_index": torch.tensor(index),
        "capacity": CAPACITY,
        "num_heads": HEADS,
        "k_cache": torch.randn(slots * CAPACITY, KV_HEADS, HEAD_DIM).to(dtype),
        "v_cache": torch.randn(slots * CAPACITY, KV_HEADS, HEAD_DIM).to(dtype),
    }


def test_equals_transformers():
    from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

    inputs = make_inputs(slots=1, index=tuple(range(CAPACITY)))
    heads = inputs["qkv"].view(CAPACITY, -1, HEAD_DIM).transpose(0, 1)[None]
    q, k, v = heads.split((HEADS, KV_HEADS, KV_HEADS), dim=1)
    cos, sin = (half.repeat(1, 2)[None] for half in inputs["cos_sin"].chunk(2, dim=-1))
    expected_q, expected_k = apply_rotary_pos_emb(q, k, cos, sin)

    out = rope_scatter_kv_(**inputs)
    torch.testing.assert_close(out, expected_q[0].transpose(0, 1))
    torch.testing.assert_close(inputs["k_cache"], expected_k[0].transpose(0, 1))
    assert torch.equal(inputs["v_cache"], v[0].transpose(0, 1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_zero_angle_is_a_copy(dtype, device):
    inputs = make_inputs(dtype=dtype)
    inputs["cos_sin"] = angles_to_cos_sin(torch.zeros(CAPACITY, HEAD_DIM // 2))
    inputs = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
    out = rope_scatter_kv_(**inputs)
    heads = inputs["qkv"].view(-1, HEADS + 2 * KV_HEADS, HEAD_DIM)
    q, k, v = heads.split((HEADS, KV_HEADS, KV_HEADS), dim=1)
    index = inputs["row_index"]
    assert torch.equal(out, q)
    assert torch.equal(inputs["k_cache"][index], k)
    assert torch.equal(inputs["v_cache"][index], v)


def test_scores_depend_on_the_distance_alone(device):
    # The reason for RoPE: moving q and k by the same number of positions keeps their score.
    inputs = make_inputs(slots=1, index=(1, 2, 4, 5))
    inputs["qkv"] = inputs["qkv"][[0, 1, 0, 1]]
    inputs = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
    q = rope_scatter_kv_(**inputs)
    score = (q[0, 0] * inputs["k_cache"][2, 0]).sum()
    shifted = (q[2, 0] * inputs["k_cache"][5, 0]).sum()
    torch.testing.assert_close(score, shifted, rtol=1e-5, atol=1e-5)


def test_the_same_position_of_two_slots_gets_the_same_angle(device):
    inputs = make_inputs(index=(3, CAPACITY + 3))
    inputs["qkv"][1] = inputs["qkv"][0]
    inputs = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
    q = rope_scatter_kv_(**inputs)
    assert torch.equal(q[0], q[1])
    assert torch.equal(inputs["k_cache"][3], inputs["k_cache"][CAPACITY + 3])


def test_unused_entries_read_and_write_nothing(device):
    inputs = make_inputs(index=(4, -1, -1))
    inputs["qkv"][1:] = float("nan")
    inputs = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
    k_before, v_before = inputs["k_cache"].clone(), inputs["v_cache"].clone()
    q = rope_scatter_kv_(**inputs)
    assert torch.equal(q[1:], torch.zeros_like(q[1:]))
    others = torch.arange(2 * CAPACITY) != 4
    assert torch.equal(inputs["k_cache"][others], k_before[others])
    assert torch.equal(inputs["v_cache"][others], v_before[others])
    assert not torch.equal(inputs["k_cache"][4], k_before[4])


def test_the_number_of_rows_does_not_change_a_row(device):
    inputs = make_inputs(slots=40, index=tuple(range(0, 40 * CAPACITY, 2)))
    inputs = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
    q = rope_scatter_kv_(**inputs)
    k = inputs["k_cache"].clone()
    one = {**inputs, "qkv": inputs["qkv"][50:51], "row_index": inputs["row_index"][50:51]}
    assert torch.equal(rope_scatter_kv_(**one), q[50:51])
    assert torch.equal(inputs["k_cache"], k)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_queries_alone(dtype, device):
    # A cache without heads: the same rotation, and nothing to write.
    inputs = make_inputs(index=(1, 6, 9, -1), dtype=dtype)
    inputs = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in inputs.items()}
    expected = rope_scatter_kv_(**inputs)
    no_heads = torch.empty(2 * CAPACITY, 0, HEAD_DIM, dtype=dtype, device=device)
    alone = {"qkv": inputs["qkv"][:, : HEADS * HEAD_DIM], "k_cache": no_heads}
    alone["v_cache"] = no_heads.clone()
    assert torch.equal(rope_scatter_kv_(**{**inputs, **alone}), expected)


def test_odd_head_size_is_rejected():
    inputs = make_inputs()
    inputs["k_cache"] = inputs["k_cache"][..., :15]
    with pytest.raises(RuntimeError, match=r"head size .* must be even, got 15"):
        rope_scatter_kv_(**inputs)


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("k_cache", lambda t: t[0], r"k_cache must have shape \[\*, \*, \*\], got \[2, 16\]"),
        ("num_heads", lambda _: -1, r"num_heads must not be negative, got -1"),
        ("capacity", lambda _: 0, r"capacity must be at least 1, got 0"),
        ("capacity", lambda _: 5, r"slots \* capacity rows, got 16 rows with a capacity of 5"),
        ("v_cache", lambda t: t[1:], r"v_cache must have shape \[16, 2, 16\], got \[15, 2, 16\]"),
        ("qkv", lambda t: t[:, 1:], r"qkv must have shape \[\*, 128\], got \[3, 127\]"),
        ("num_heads", lambda _: 5, r"qkv must have shape \[\*, 144\], got \[3, 128\]"),
        ("cos_sin", lambda t: t[1:], r"cos_sin must have shape \[8, 16\], got \[7, 16\]"),
        ("row_index", lambda t: t[1:], r"row_index must have shape \[3\], got \[2\]"),
        ("qkv", lambda t: t.double(), r"qkv must be float32, float16 or bfloat16, got Double"),
        ("k_cache", lambda t: t.half(), r"k_cache must be Float, got Half"),
        ("v_cache", lambda t: t.bfloat16(), r"v_cache must be Float, got BFloat16"),
        ("cos_sin", lambda t: t.half(), r"cos_sin must be Float, got Half"),
        ("row_index", lambda t: t.int(), r"row_index must be Long, got Int"),
        ("qkv", lambda t: t.t().contiguous().t(), r"qkv must be contiguous in its last dimension"),
        ("cos_sin", lambda t: t.t().contiguous().t(), r"cos_sin must be contiguous"),
        ("k_cache", lambda t: t.mT.contiguous().mT, r"k_cache must be contiguous"),
        ("v_cache", lambda t: t.mT.contiguous().mT, r"v_cache must be contiguous"),
        ("row_index", lambda t: t + 8, r"row_index\[2\] is 17, allowed are -1 \(unused\) to 15"),
        ("row_index", lambda t: t - 3, r"row_index\[0\] is -2, allowed are -1 \(unused\) to 15"),
    ],
)
def test_rejects(name, change, message):
    inputs = make_inputs()
    inputs[name] = change(inputs[name])
    with pytest.raises(RuntimeError, match="rope_scatter_kv_: .*" + message):
        rope_scatter_kv_(**inputs)
