"""The packed head: the same predictions as the plain one, tile by tile, and what it holds."""

from __future__ import annotations

import pytest
import torch

import dlmcache_cuda
from dlmcache_cuda.model import head as head_module
from dlmcache_cuda.model.head import Head
from dlmcache_cuda.model.packed import packs
from dlmcache_cuda.testing.tiny_model import random_model

pytestmark = pytest.mark.skipif(
    not packs("cpu", torch.float32), reason="this torch cannot pack matrices (no oneDNN)"
)
WIDTH, VOCAB = 64, 5000


def plain(weight: torch.Tensor) -> Head:
    head = Head(weight)
    head._packed = None
    return head


@pytest.mark.parametrize("rows", [0, 1, 7, 40])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_predicts_like_the_plain_head(packed_dtype, rows, temperature, monkeypatch):
    monkeypatch.setattr(head_module, "PACKED_LOGITS", 16 * VOCAB)  # tiles of 16 rows
    generator = torch.Generator().manual_seed(rows)
    weight = torch.randn(VOCAB, WIDTH, generator=generator).to(packed_dtype)
    normed = torch.randn(rows, WIDTH, generator=generator).to(packed_dtype)
    settings = {
        "row_index": torch.arange(rows) * 2 - 1,  # the first one is unused
        "capacity": 50,
        "seeds": torch.tensor([3, 4]),
        "steps": torch.tensor([0, 5]),
        "temperature": temperature,
        "suppress_ids": torch.tensor([17, 4000]),
        "extras": True,
    }
    packed = Head(weight)
    assert packed.rows_at_once == 16 and plain(weight).rows_at_once is None
    found, expected = packed.reduce(normed, **settings), plain(weight).reduce(normed, **settings)
    tolerance = 1e-4 if packed_dtype == torch.float32 else 0.1
    for a, b in zip(found, expected, strict=True):
        if a.dtype == torch.int64 and packed_dtype == torch.float32:
            assert torch.equal(a, b)
        elif a.dtype != torch.int64:
            torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(
        packed.logits(normed), plain(weight).logits(normed), rtol=tolerance, atol=10 * tolerance
    )


def test_small_and_float16_heads_are_not_packed():
    assert Head(torch.randn(100, 64)).rows_at_once is None
    assert Head(torch.randn(VOCAB, WIDTH).half()).rows_at_once is None


def test_a_model_counts_its_packed_head_and_decodes_the_same(monkeypatch):
    model = random_model(0, d_model=WIDTH, n_heads=4, n_kv_heads=4, vocab_size=VOCAB)
    assert model.head_rows_at_once is not None
    twice = model.weight_bytes
    prompts = [torch.arange(5, 25), torch.arange(40, 52)]
    options = {"gen_length": 24, "block_length": 12, "batch_size": 2, "stop_at_eos": False}
    found = dlmcache_cuda.decode(model, prompts, cache="dual", **options)
    monkeypatch.setattr(model, "_head", plain(model.head))
    assert model.weight_bytes == twice - model.head.nbytes
    expected = dlmcache_cuda.decode(model, prompts, cache="dual", **options)
    for a, b in zip(found.sequences, expected.sequences, strict=True):
        assert torch.equal(a.ids, b.ids) and torch.equal(a.commit_step, b.commit_step)
        torch.testing.assert_close(a.confidence, b.confidence, rtol=1e-4, atol=1e-5)
