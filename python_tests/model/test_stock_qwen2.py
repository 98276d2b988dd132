"""Dream's logits equal those of stock Qwen2 without the causal mask, on the same weights."""

from __future__ import annotations

import pytest
import torch

from dlmcache_cuda.model import load
from dlmcache_cuda.testing.compare import assert_close_to_reference
from dlmcache_cuda.testing.stock_llama import stock_logits
from dlmcache_cuda.testing.stock_qwen2 import stock_dream
from dlmcache_cuda.testing.tiny_model import (
    random_checkpoint,
    random_config,
    random_weights,
    write_checkpoint,
)

CONFIGS = {
    "gqa-2-to-1": {},
    "gqa-7-to-1": {"d_model": 112, "n_heads": 7, "n_kv_heads": 1, "vocab_size": 131},
    "gqa-14-to-2": {"d_model": 112, "n_heads": 14, "n_kv_heads": 2, "mlp_hidden_size": 200},
    "mha": {"n_heads": 3, "n_kv_heads": 3},
    "deep-theta": {"n_layers": 5, "rope_theta": 1e6},
    "tied": {"weight_tying": True},
}


@pytest.fixture(params=CONFIGS, ids=str)
def config(request):
    return random_config(model_type="Dream", **CONFIGS[request.param])


def test_bidirectional_stock_is_not_causal():
    config = random_config(model_type="Dream")
    ids = torch.randint(0, 60, (1, 9))
    stock = stock_dream(config, random_weights(config))
    changed = ids.clone()
    changed[0, -1] = (ids[0, -1] + 1) % 60
    first = stock_logits(stock, ids)[0, 0]
    assert (first - stock_logits(stock, changed)[0, 0]).abs().max() > 1e-3


@pytest.mark.parametrize("length", [1, 130])
def test_fp32_logits(config, length, tmp_path, device):
    weights = random_weights(config, seed=length)
    folder = write_checkpoint(tmp_path, config, weights, prefix="")
    model = load(folder, device=device, dtype="float32")
    assert model.shift == 1
    ids = torch.randint(0, config["vocab_size"], (3, length))
    expected = stock_logits(stock_dream(config, weights), ids)
    logits = model.logits(ids).cpu()
    assert logits.shape == expected.shape
    assert (logits - expected).abs().max() < 1e-4
    assert expected.std() > 0.5  # the comparison would be empty with tiny logits


@pytest.mark.parametrize(
    "name, dtype",
    [(name, torch.bfloat16) for name in CONFIGS] + [("gqa-7-to-1", torch.float16)],
    ids=str,
)
def test_low_precision_logits(name, dtype, tmp_path, device):
    config = random_config(model_type="Dream", **CONFIGS[name])
    weights = {
        name: value.to(dtype).float() for name, value in random_weights(config, seed=5).items()
    }
    folder = write_checkpoint(tmp_path, config, weights, prefix="")
    model = load(folder, device=device, dtype=dtype)
    ids = torch.randint(0, config["vocab_size"], (2, 65))
    exact = stock_logits(stock_dream(config, weights, torch.float64), ids)
    same = stock_logits(stock_dream(config, weights, dtype), ids)
    logits = model.logits(ids)
    assert logits.dtype == dtype
    assert_close_to_reference(logits, exact, same, f"{dtype} logits")


@pytest.mark.parametrize("name", ["q_proj", "k_proj", "v_proj"])
def test_every_bias_is_used(name, tmp_path, device):
    config = random_config(model_type="Dream")
    weights = random_weights(config)
    ids = torch.randint(0, 60, (1, 20))
    without = dict(weights)
    for layer in range(config["num_hidden_layers"]):
        bias = f"model.layers.{layer}.self_attn.{name}.bias"
        without[bias] = torch.zeros_like(weights[bias])
    models = [
        load(write_checkpoint(tmp_path / folder, config, part, prefix=""), device=device)
        for folder, part in (("with", weights), ("without", without))
    ]
    block = models[0].layers[1].weights
    assert block.qkv_bias.shape == (len(block.qkv),)
    assert models[0].weight_bytes == sum(weight.nbytes for weight in weights.values())
    first, second = (model.logits(ids) for model in models)
    assert (first - second).abs().max() > 1e-3


def test_missing_and_misshaped_biases_are_named(tmp_path):
    config = random_config(model_type="Dream")
    weights = random_weights(config)
    bias = "model.layers.1.self_attn.k_proj.bias"
    kept = weights.pop(bias)
    with pytest.raises(ValueError, match="1 missing weights: layers.1.self_attn.k_proj.bias"):
        load(write_checkpoint(tmp_path, config, weights, prefix=""), device="cpu")
    weights[bias] = kept[:-1].clone()
    with pytest.raises(ValueError, match=r"k_proj.bias has shape \[23\], the config makes it"):
        load(write_checkpoint(tmp_path, config, weights, prefix=""), device="cpu")


def test_llada_has_no_shift_and_no_biases(tmp_path):
    model = load(random_checkpoint(tmp_path), device="cpu")
    assert model.shift == 0 and model.layers[0].weights.qkv_bias is None
