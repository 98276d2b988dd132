"""Decoding with weights stored as fp8, and the one product of SPA-Cache's carried rows."""

from __future__ import annotations

import pytest
import torch
from oracles.compare import make_config, random_prompts

import dlmcache_cuda
from dlmcache_cuda import available_policies
from dlmcache_cuda.model.linear import Fp8Linear, PlainLinear
from dlmcache_cuda.model.whole_stack import WholeStack
from dlmcache_cuda.testing.tiny_model import random_model

SIZES = {"d_model": 64, "n_layers": 3, "n_heads": 4, "n_kv_heads": 2, "mlp_hidden_size": 160}
KINDS = ["llada", "Dream"]
LENGTHS = [8, 2, 13]
SEEDS = [1, 2, 3]


def norm_of_difference(one, other):
    return float((one.double() - other.double()).norm() / other.double().norm())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(4))
def test_logits_stay_close(seed, kind, dtype, device):
    """Within a fifth, on models that enlarge what rounding to three bits does in every product.

    The same models in bfloat16, with seven bits, are off by up to 2 %.
    """
    plain = random_model(seed, device=device, dtype="float32", model_type=kind, **SIZES)
    options = {"dtype": dtype, "weights": "fp8", "model_type": kind, **SIZES}
    quantised = random_model(seed, device=device, **options)
    ids = torch.randint(0, plain.config.vocab_size, (3, 37))
    logits = quantised.logits(ids)
    assert logits.dtype == quantised.dtype == getattr(torch, dtype)
    assert 1e-3 < norm_of_difference(logits, plain.logits(ids)) < 0.2


@pytest.mark.parametrize("kind", KINDS)
def test_memory_of_the_matrices(kind):
    plain, quantised = (
        random_model(0, dtype="bfloat16", weights=weights, model_type=kind, **SIZES)
        for weights in (None, "fp8")
    )
    outputs = (64 + 2 * 32) + 64 + 2 * 160 + 64
    matrices = (64 + 2 * 32) * 64 + 64 * 64 + 2 * 160 * 64 + 64 * 160
    saved = SIZES["n_layers"] * (matrices - 4 * outputs)  # a byte per weight, less the scales
    assert plain.weight_bytes - quantised.weight_bytes == saved
    for block in quantised.layers:
        weights = block.weights
        for matrix in (weights.qkv, weights.attn_out, weights.gate_up, weights.ff_out):
            assert isinstance(matrix, Fp8Linear)


@pytest.mark.parametrize("name", list(available_policies()))
def test_a_batch_is_its_sequences(name, device):
    policy = available_policies()[name]
    model = random_model(5, device=device, weights="fp8", **SIZES)
    prompts = random_prompts(5, LENGTHS)
    options = {"gen_length": 16, "cache": policy.Config()}
    if name != "d2":
        options["block_length"] = 8
    if policy.remasking is not None:
        options["remasking"] = policy.remasking
    together = dlmcache_cuda.decode(model, prompts, seed=SEEDS, **options).sequences
    for prompt, seed, sequence in zip(prompts, SEEDS, together, strict=True):
        alone = dlmcache_cuda.decode(model, [prompt], seed=[seed], **options).sequences[0]
        assert alone.ids.tolist() == sequence.ids.tolist()
        assert alone.commit_step.tolist() == sequence.commit_step.tolist()


@pytest.mark.parametrize("weights", [None, "fp8"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("cache, settings", [("spa", {}), ("composed", {"gamma": 1.0})])
def test_keys_values_and_proxy_are_one_product(cache, settings, kind, weights, monkeypatch):
    """Sparse layers make them for all carried rows at once, and queries for the chosen ones."""
    linear = PlainLinear if weights is None else Fp8Linear
    model = random_model(6, weights=weights, model_type=kind, **SIZES)
    stacked = (64 + 2 * 32) + 5
    slices, multiply = [], linear.__call__

    def recorded(self, x, first=0, last=None):
        if len(self) == stacked:
            slices.append((first, last))
        return multiply(self, x, first, last)

    monkeypatch.setattr(linear, "__call__", recorded)
    # Not all layers by one operator, which multiplies in the same way unseen.
    monkeypatch.setattr(WholeStack, "takes", lambda *_: False)
    config = make_config(cache, proxy_rank=5, **settings)
    prompts = random_prompts(6, LENGTHS)
    dlmcache_cuda.decode(model, prompts, gen_length=16, seed=SEEDS, cache=config)
    sparse = [index for index, part in enumerate(slices) if part == (64, stacked)]
    assert sparse
    assert all(slices[index + 1] == (0, 64) for index in sparse)
    # Dense layers: all projections, then the proxy; nobody makes keys and values by themselves.
    assert set(slices) <= {(64, stacked), (0, 64), (0, stacked - 5), (stacked - 5, stacked)}
