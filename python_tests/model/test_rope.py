"""The table of the rotary embedding."""

from __future__ import annotations

import pytest
import torch

from dlmcache_cuda.model.rope import RopeTable, inverse_frequencies


def test_table_is_that_of_stock_llama():
    from transformers import LlamaConfig
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

    config = LlamaConfig(
        hidden_size=128,
        num_attention_heads=2,
        rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
    )
    positions = torch.arange(1000)[None]
    cos, sin = LlamaRotaryEmbedding(config)(torch.zeros(1), positions)
    table = RopeTable(64, 500000.0, "cpu").rows(1000)
    assert table.dtype == torch.float32
    assert torch.equal(table[:, :32], cos[0, :, :32]) and torch.equal(table[:, 32:], sin[0, :, :32])


def test_growing_leaves_earlier_rows_alone():
    table = RopeTable(16, 10000.0, "cpu")
    short = table.rows(5)
    kept = short.clone()
    long = table.rows(3000)
    assert long.shape == (3000, 16) and torch.equal(long[:5], kept) and torch.equal(short, kept)
    assert table.rows(7).data_ptr() == long.data_ptr()  # one table for all lengths
    assert table.rows(0).shape == (0, 16)


@pytest.mark.parametrize("theta", [float("nan"), 1.0, 0.5, 1e39, float("inf")])
def test_frequencies_must_be_finite_and_decreasing(theta):
    with pytest.raises(ValueError, match="not finite and decreasing"):
        inverse_frequencies(64, theta)
