"""The oracles themselves: against stock Llama, LLaDA's published steps on it, and each other."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from oracles import noise
from oracles.checkpoint import EOS, EOT, MASK, VOCAB, dream_name, write_checkpoint
from oracles.fast_dllm import BlockCacheOptions, decode_fast_dllm
from oracles.model import PlainLlada
from oracles.sequence import Settings, TokenIds
from oracles.vanilla import decode_vanilla
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

IDS = TokenIds(mask=MASK, end=(EOS, EOT), pad=EOS)


def stock_model(model: PlainLlada) -> LlamaForCausalLM | Qwen2ForCausalLM:
    """Stock Llama with LLaDA's weights, or Qwen2 with Dream's; attention to be unmasked."""
    c = model.config
    kinds = [(LlamaConfig, LlamaForCausalLM), (Qwen2Config, Qwen2ForCausalLM)]
    config_class, model_class = kinds[c.shift]
    config = config_class(
        vocab_size=VOCAB,
        hidden_size=c.d_model,
        intermediate_size=model.weights["blocks.0.ff_proj.weight"].shape[0],
        num_hidden_layers=c.n_layers,
        num_attention_heads=c.n_heads,
        num_key_value_heads=c.n_kv_heads,
        rms_norm_eps=c.rms_norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": c.rope_theta},
        max_position_embeddings=128,
        tie_word_embeddings=c.weight_tying,
        attn_implementation="eager",
    )
    state = {dream_name(name): tensor for name, tensor in model.weights.items()}
    if c.weight_tying:
        state["lm_head.weight"] = model.weights["wte.weight"]
    stock = model_class(config).to(model.weights["wte.weight"].dtype).eval()
    stock.load_state_dict(state, strict=True)
    for layer in stock.model.layers:
        layer.self_attn.is_causal = False
    return stock


@torch.no_grad()
def stock_logits(stock: LlamaForCausalLM | Qwen2ForCausalLM, ids: torch.Tensor) -> torch.Tensor:
    everything = torch.zeros(ids.shape[0], 1, ids.shape[1], ids.shape[1], dtype=stock.dtype)
    return stock(ids, attention_mask=everything, use_cache=False).logits


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> PlainLlada:
    return PlainLlada.from_folder(write_checkpoint(tmp_path_factory.mktemp("oracle"), seed=1))


@pytest.mark.parametrize("kv_heads,tied", [(4, False), (2, False), (1, True)])
@pytest.mark.parametrize("family", ["llada", "dream"])
def test_plain_model_equals_the_stock_model(tmp_path, family, kv_heads, tied):
    options = {"family": family, "n_kv_heads": kv_heads, "weight_tying": tied}
    folder = write_checkpoint(tmp_path, seed=3, **options)
    model = PlainLlada.from_folder(folder)
    ids = torch.randint(VOCAB, (2, 19))
    expected = stock_logits(stock_model(model), ids)
    # the stock models round their rotation angles to fp32
    assert (model.forward(ids)[0] - expected).abs().max() < 1e-5


def test_rows_against_their_own_keys_equal_the_full_forward(model):
    ids = torch.randint(VOCAB, (1, 17))
    logits, k, v = model.forward(ids)
    positions = torch.tensor([2, 3, 9, 16])
    again = model.forward_rows(ids[:, :], torch.arange(17), k, v)
    assert torch.equal(again, logits)
    # against the keys of a finished forward a row sees in every layer what it saw before
    few = model.forward_rows(ids[:, positions], positions, k, v)
    assert (few - logits[:, positions]).abs().max() < 1e-12


def reference_loop(
    llama, prompt, *, steps, gen_length, block_length, cfg_scale=0.0, eos_inf=False, conf_inf=False
):
    """LLaDA's loop at temperature 0 as published: probabilities, top-k, no early end."""
    x = torch.full((1, len(prompt) + gen_length), MASK)
    x[0, : len(prompt)] = torch.tensor(prompt)
    n_blocks = gen_length // block_length
    for block in range(n_blocks):
        begin = len(prompt) + block * block_length
        end = begin + block_length
        masks = int((x[:, begin:end] == MASK).sum())
        per_block = steps // n_blocks
        for i in range(per_block):
            logits = stock_logits(llama, x)
            if cfg_scale:
                unconditional = x.clone()
                unconditional[:, : len(prompt)] = MASK
                other = stock_logits(llama, unconditional)
                logits = other + (cfg_scale + 1) * (logits - other)
            if eos_inf:
                logits[..., EOS] = -math.inf
            x0 = logits.argmax(-1)
            if conf_inf:
                logits[..., [EOS, EOT]] = -math.inf
            confidence = logits.softmax(-1).gather(-1, x0[..., None])[..., 0]
            confidence[:, end:] = -math.inf
            confidence[x != MASK] = -math.inf
            number = masks // per_block + (i < masks % per_block)
            order = confidence[0].argsort(descending=True, stable=True)[:number]
            x[0, order] = x0[0, order]
    return x[0, len(prompt) :].tolist()


@pytest.mark.parametrize("options", [{}, {"eos_inf": True}, {"conf_inf": True}, {"cfg_scale": 0.7}])
@pytest.mark.parametrize("block_length,steps", [(16, 16), (16, 5), (4, 8), (4, 32), (1, 16)])
def test_vanilla_equals_the_published_steps_on_stock_model(model, options, block_length, steps):
    prompt = [3, 14, 15, 9, 2]
    expected = reference_loop(
        stock_model(model),
        prompt,
        steps=steps,
        gen_length=16,
        block_length=block_length,
        **options,
    )
    settings = Settings(
        gen_length=16,
        block_length=block_length,
        steps=steps,
        cfg_scale=options.get("cfg_scale", 0.0),
        logits_eos_inf=options.get("eos_inf", False),
        confidence_eos_eot_inf=options.get("conf_inf", False),
        stop_at_eos=False,
    )
    record = decode_vanilla(model, prompt, settings, IDS)
    committed = zip(record.ids, record.commit_step, strict=True)
    ids = [MASK if step < 0 else token for token, step in committed]  # without padding
    assert record.margin > 1e-5
    assert ids == expected


@pytest.mark.parametrize("cache", ["prefix", "dual"])
@pytest.mark.parametrize(
    "options",
    [{}, {"threshold": 0.4}, {"factor": 1.0}, {"temperature": 0.7}, {"cfg_scale": 0.5}],
)
@pytest.mark.parametrize("seed", range(3))
def test_cached_oracles_that_refresh_at_every_step_equal_vanilla(model, cache, options, seed):
    settings = Settings(gen_length=16, block_length=4, seed=seed, **options)
    prompt = torch.randint(36, (6,), generator=torch.Generator().manual_seed(seed)).tolist()
    vanilla = decode_vanilla(model, prompt, settings, IDS)
    cached = decode_fast_dllm(model, prompt, settings, IDS, cache, BlockCacheOptions(1))
    assert cached.ids == vanilla.ids
    assert cached.commit_step == vanilla.commit_step
    assert cached.refresh_steps == list(range(vanilla.forwards))


def test_a_cached_step_differs_from_a_full_one(model):
    """Guards the comparison of caches: these models notice stale keys."""
    settings = Settings(gen_length=16, block_length=8, stop_at_eos=False)
    differing = 0
    for seed in range(6):
        prompt = torch.randint(36, (6,), generator=torch.Generator().manual_seed(seed)).tolist()
        records = [decode_vanilla(model, prompt, settings, IDS)]
        records += [decode_fast_dllm(model, prompt, settings, IDS, c) for c in ("prefix", "dual")]
        differing += len({tuple(r.ids) for r in records}) > 1
    assert differing >= 3


def test_philox_known_answers():
    """Random123's kat_vectors for philox4x32-10."""
    zeros = [np.zeros(1, dtype=np.uint64)] * 4
    ones = [np.full(1, 0xFFFFFFFF, dtype=np.uint64)] * 4
    assert [int(x[0]) for x in noise.philox(zeros, (0, 0))] == [
        0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8,
    ]  # fmt: skip
    assert [int(x[0]) for x in noise.philox(ones, (0xFFFFFFFF, 0xFFFFFFFF))] == [
        0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD,
    ]  # fmt: skip
