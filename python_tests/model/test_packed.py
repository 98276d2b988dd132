"""Packed matrices: any number of rows, cuts, threads; and a model that uses them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import dlmcache_cuda
from dlmcache_cuda.model import block as block_module
from dlmcache_cuda.model import packed
from dlmcache_cuda.model.linear import PlainLinear
from dlmcache_cuda.model.packed import PackedLinear, pack_linear, packs
from dlmcache_cuda.testing.tiny_model import random_model

pytestmark = pytest.mark.skipif(
    not packs("cpu", torch.float32), reason="this torch cannot pack matrices (no oneDNN)"
)


def test_rows_have_the_same_bits_in_any_company(packed_dtype):
    linear = PackedLinear(torch.randn(160, 96).to(packed_dtype), torch.randn(160).to(packed_dtype))
    x = torch.randn(300, 96).to(packed_dtype)
    whole = linear(x)
    plain = torch.nn.functional.linear(x.double(), linear.rows().double(), linear.bias.double())
    tolerance = 1e-5 if packed_dtype == torch.float32 else 0.1
    torch.testing.assert_close(whole.double(), plain, rtol=tolerance, atol=tolerance)
    for count in (0, 1, 3, 8, 9, 33, 64, 65, 130, 257):
        out = linear(x[:count])
        assert out.shape == (count, 160) and torch.equal(out, whole[:count])


def test_rows_that_are_not_contiguous():
    linear = PackedLinear(torch.randn(32, 48))
    x = torch.randn(20, 96)[::2, ::2]
    torch.testing.assert_close(linear(x), linear(x.contiguous()), rtol=0, atol=0)


def test_a_cut_keeps_the_matrix():
    weight = torch.randn(96, 32)
    linear = PackedLinear(weight, torch.randn(96))
    x = torch.randn(5, 32)
    whole = linear(x)
    for first, last in ((0, 32), (32, 64), (16, 80), (95, 96), (40, 40)):
        torch.testing.assert_close(linear(x, first, last), whole[:, first:last])
        assert torch.equal(linear.rows(), weight)
        assert torch.equal(linear.rows(first, last), weight[first:last])
    torch.testing.assert_close(linear(x), whole)
    assert linear.nbytes == weight.nbytes + 96 * 4


def test_threads_that_cut_at_different_rows():
    weight, x = torch.randn(256, 32), torch.randn(3, 32)
    linear = PackedLinear(weight)
    expected = x @ weight.T

    def ask(first):
        return first, linear(x, first, first + 50)

    with ThreadPoolExecutor(8) as pool:
        for first, out in pool.map(ask, list(range(0, 200)) * 3):
            torch.testing.assert_close(out, expected[:, first : first + 50], atol=1e-4, rtol=1e-4)


def test_what_is_packed():
    large = torch.zeros(512, 512)
    assert isinstance(pack_linear(large), PackedLinear)
    assert isinstance(pack_linear(torch.zeros(64, 64)), PlainLinear)
    assert isinstance(pack_linear(large.half()), PlainLinear)
    assert isinstance(pack_linear(large.to("meta")), PlainLinear)


@pytest.mark.parametrize(
    "cache", ["none", "dual", "dkv-decode", "elastic", "spa", "dllm", "composed"]
)
def test_models_decode_the_same_packed_and_plain(monkeypatch, cache):
    prompts = [list(range(1, 20)), list(range(3, 9))]
    settings = {"gen_length": 16, "block_length": 8, "cache": cache, "seed": 0, "trace": True}
    config = {"d_model": 64, "n_heads": 2, "n_kv_heads": 2, "n_layers": 3, "mlp_hidden_size": 96}
    plain = dlmcache_cuda.decode(random_model(device="cpu", **config), prompts, **settings)
    monkeypatch.setattr(packed, "_PACKED_FROM", 1)
    model = random_model(device="cpu", **config)
    assert isinstance(model.layers[0].weights.qkv, PackedLinear)
    out = dlmcache_cuda.decode(model, prompts, **settings)
    for got, expected in zip(out.sequences, plain.sequences, strict=True):
        assert torch.equal(got.ids, expected.ids)
        assert torch.equal(got.commit_step, expected.commit_step)
        assert got.rows_computed == expected.rows_computed
    assert out.stats.forwards == plain.stats.forwards


@pytest.mark.parametrize("packed_from", [1, 2**40])
def test_blocks_in_parts(monkeypatch, packed_from):
    monkeypatch.setattr(packed, "_PACKED_FROM", packed_from)
    model = random_model(device="cpu", d_model=48, mlp_hidden_size=96)
    block, cos_sin = model.layers[0], model.cos_sin(80)
    h, attn_out = torch.randn(2, 70, 48)
    row_index = torch.randperm(80)[:70]
    row_index[[3, 69]] = -1

    def outs():
        cache = model.new_cache(1, 80)
        q = block.project_qkv(h, row_index, cos_sin, cache.k[0], cache.v[0])
        return q, *cache.whole, *block.feed_forward(h, attn_out)

    expected = outs()
    for most in (1, 7, 35, 69, 70):
        monkeypatch.setattr(block_module, "CPU_ROWS_AT_ONCE", most)
        for got, wanted in zip(outs(), expected, strict=True):
            torch.testing.assert_close(got, wanted)
