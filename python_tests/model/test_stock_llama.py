"""Logits equal those of stock Llama without the causal mask, on the same weights."""

from __future__ import annotations

import pytest
import torch

from dlmcache_cuda.model import load
from dlmcache_cuda.testing.compare import assert_close_to_reference
from dlmcache_cuda.testing.stock_llama import stock_logits, stock_model
from dlmcache_cuda.testing.stock_names import stock_name
from dlmcache_cuda.testing.tiny_model import random_config, random_weights, write_checkpoint

CONFIGS = {
    "mha-16": {},
    "gqa-24": {"d_model": 144, "n_heads": 6, "n_kv_heads": 2, "mlp_hidden_size": 200},
    "mqa-64": {"d_model": 128, "n_heads": 2, "n_kv_heads": 1, "vocab_size": 131},
    "deep-theta": {"n_layers": 6, "rope_theta": 500000.0, "rms_norm_eps": 1e-6},
    "tied-padded": {"weight_tying": True, "vocab_size": 61, "embedding_size": 64},
    "kv-heads-absent": {"n_kv_heads": None},
    "one-wide-head": {"d_model": 96, "n_heads": 1, "n_kv_heads": 1, "mlp_hidden_size": 33},
}


@pytest.fixture(params=CONFIGS, ids=str)
def config(request):
    return random_config(**CONFIGS[request.param])


def test_bidirectional_stock_is_not_causal():
    config = random_config()
    ids = torch.randint(0, 60, (1, 9))
    stock = stock_model(config, random_weights(config))
    changed = ids.clone()
    changed[0, -1] = (ids[0, -1] + 1) % 60
    first = stock_logits(stock, ids)[0, 0]
    assert (first - stock_logits(stock, changed)[0, 0]).abs().max() > 1e-3


@pytest.mark.parametrize("length", [1, 130])
def test_fp32_logits(config, length, tmp_path, device):
    weights = random_weights(config, seed=length)
    model = load(write_checkpoint(tmp_path, config, weights), device=device, dtype="float32")
    ids = torch.randint(0, config["vocab_size"], (3, length))
    expected = stock_logits(stock_model(config, weights), ids)
    logits = model.logits(ids).cpu()
    assert logits.shape == expected.shape
    assert (logits - expected).abs().max() < 1e-4
    assert expected.std() > 0.5  # the comparison would be empty with tiny logits


@pytest.mark.parametrize(
    "name, dtype",
    [(name, torch.bfloat16) for name in CONFIGS] + [("gqa-24", torch.float16)],
    ids=str,
)
def test_low_precision_logits(name, dtype, tmp_path, device):
    config = random_config(**CONFIGS[name])
    weights = {
        name: value.to(dtype).float() for name, value in random_weights(config, seed=5).items()
    }
    model = load(write_checkpoint(tmp_path, config, weights), device=device, dtype=dtype)
    ids = torch.randint(0, config["vocab_size"], (2, 65))
    exact = stock_logits(stock_model(config, weights, torch.float64), ids)
    same = stock_logits(stock_model(config, weights, dtype), ids)
    logits = model.logits(ids)
    assert logits.dtype == dtype
    assert_close_to_reference(logits, exact, same, f"{dtype} logits")


def test_illada_layout(tmp_path, device):
    """iLLaDA is published with Llama's words and names, GQA and a tied head stored twice."""
    sizes = random_config(d_model=64, n_heads=4, n_kv_heads=2, weight_tying=True)
    weights = random_weights(sizes)
    config = {
        "model_type": "illada",
        "hidden_size": 64,
        "num_hidden_layers": sizes["n_layers"],
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": sizes["mlp_hidden_size"],
        "max_position_embeddings": 512,
        "vocab_size": sizes["vocab_size"],
        "rms_norm_eps": sizes["rms_norm_eps"],
        "rope_theta": sizes["rope_theta"],
        "rope_scaling": None,
        "tie_word_embeddings": True,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "layer_norm_eps": None,
        "eos_token_id": 2,
        "pad_token_id": 1,
    }
    stored = {stock_name(name): value for name, value in weights.items()}
    stored["lm_head.weight"] = weights["wte.weight"].clone()
    write_checkpoint(tmp_path, config, stored, prefix="")
    model = load(tmp_path, device=device, dtype="float32", mask_token_id=5)
    assert (model.mask_token_id, model.end_token_ids, model.pad_token_id) == (5, (2,), 1)
    ids = torch.randint(0, sizes["vocab_size"], (2, 33))
    expected = stock_logits(stock_model(sizes, weights), ids)
    assert (model.logits(ids).cpu() - expected).abs().max() < 1e-4
    assert model.head is model.embedding

    stored["lm_head.weight"] += 1
    write_checkpoint(tmp_path, config, stored, prefix="")
    with pytest.raises(ValueError, match="ties the head to the embedding, but lm_head.weight"):
        load(tmp_path, device=device, mask_token_id=5)
