"""config.json: what is read, and what is refused by name."""

from __future__ import annotations

import dataclasses
import json

import pytest

from dlmcache_cuda.model import LladaConfig
from dlmcache_cuda.testing.tiny_model import random_config

# As published with LLaDA-8B-Instruct, the keys that matter.
LLADA_8B = {
    "model_type": "llada",
    "activation_type": "silu",
    "alibi": False,
    "attention_layer_norm": False,
    "bias_for_layer_norm": False,
    "block_type": "llama",
    "d_model": 4096,
    "embedding_size": 126464,
    "eos_token_id": 126081,
    "include_bias": False,
    "include_qkv_bias": False,
    "input_emb_norm": False,
    "layer_norm_type": "rms",
    "layer_norm_with_affine": True,
    "mask_token_id": 126336,
    "max_sequence_length": 4096,
    "mlp_hidden_size": 12288,
    "mlp_ratio": 4,
    "multi_query_attention": None,
    "n_heads": 32,
    "n_kv_heads": 32,
    "n_layers": 32,
    "pad_token_id": 126081,
    "rms_norm_eps": 1e-05,
    "rope": True,
    "rope_full_precision": True,
    "rope_theta": 500000.0,
    "scale_logits": False,
    "vocab_size": 126464,
    "weight_tying": False,
}

# As published with Dream-v0-Instruct-7B, without what concerns training and transformers.
DREAM_7B = {
    "model_type": "Dream",
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151643,
    "hidden_act": "silu",
    "hidden_size": 3584,
    "initializer_range": 0.02,
    "intermediate_size": 18944,
    "mask_token_id": 151666,
    "max_position_embeddings": 131072,
    "max_window_layers": 28,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "pad_token_id": 151643,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "use_cache": True,
    "use_mrope": False,
    "use_sliding_window": False,
    "vocab_size": 152064,
}


def read(**changes):
    return LladaConfig.from_dict({**random_config(), **changes}, "here")


def test_published_config():
    config = LladaConfig.from_dict(LLADA_8B)
    assert (config.head_dim, config.n_kv_heads, config.mlp_hidden_size) == (128, 32, 12288)
    assert (config.mask_token_id, config.eos_token_ids) == (126336, (126081,))
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.n_layers = 1


def test_published_dream_config():
    config = LladaConfig.from_dict(DREAM_7B)
    assert (config.d_model, config.n_layers, config.mlp_hidden_size) == (3584, 28, 18944)
    assert (config.head_dim, config.n_heads, config.n_kv_heads) == (128, 28, 4)
    assert (config.vocab_size, config.embedding_size) == (152064, 152064)
    assert (config.rope_theta, config.rms_norm_eps) == (1e6, 1e-6)
    assert (config.qkv_bias, config.shift, config.weight_tying) == (True, 1, False)
    assert (config.mask_token_id, config.eos_token_ids) == (151666, (151643,))
    llada = LladaConfig.from_dict(LLADA_8B)
    assert (llada.qkv_bias, llada.shift) == (False, 0)


@pytest.mark.parametrize(
    "key, value",
    [
        ("hidden_act", "gelu"),
        ("use_sliding_window", True),
        ("use_mrope", True),
        ("rope_scaling", {"rope_type": "yarn", "factor": 4.0}),
        ("num_experts", 8),
        ("quantization_config", {"quant_method": "awq"}),
    ],
)
def test_what_is_not_implemented_of_dream_is_named(key, value):
    with pytest.raises(ValueError) as caught:
        LladaConfig.from_dict({**DREAM_7B, key: value}, "here")
    assert str(caught.value).startswith(f"here: {key} = {value!r} is not implemented, only ")


def test_head_size_of_dream_is_width_by_heads():
    assert LladaConfig.from_dict({**DREAM_7B, "head_dim": 128}).head_dim == 128
    with pytest.raises(ValueError, match="here: head_dim 64 is not the width / heads = 128"):
        LladaConfig.from_dict({**DREAM_7B, "head_dim": 64}, "here")
    with pytest.raises(ValueError, match="here: missing hidden_size, num_hidden_layers, num_atten"):
        LladaConfig.from_dict({"model_type": "Dream"}, "here")


def test_what_may_be_left_out():
    assert read(n_kv_heads=None).n_kv_heads == 3
    assert read(n_kv_heads=None, multi_query_attention=True).n_kv_heads == 1
    assert read(embedding_size=None).embedding_size == 67
    assert read(mlp_hidden_size=None, mlp_ratio=4).mlp_hidden_size == 4 * 48
    assert read(eos_token_id=[3, 5]).eos_token_ids == (3, 5)
    assert read(eos_token_id=None, mask_token_id=None).mask_token_id is None


@pytest.mark.parametrize(
    "key, value",
    [
        ("block_type", "sequential"),
        ("activation_type", "swiglu"),
        ("layer_norm_type", "default"),
        ("layer_norm_with_affine", False),
        ("attention_layer_norm", True),
        ("input_emb_norm", True),
        ("include_bias", True),
        ("include_qkv_bias", True),
        ("bias_for_layer_norm", True),
        ("alibi", True),
        ("rope", False),
        ("rope_full_precision", False),
        ("rope_scaling", {"type": "linear", "factor": 2}),
        ("scale_logits", True),
        ("clip_qkv", 8.0),
        ("num_experts", 64),
        ("quantization_config", {"bits": 4}),
    ],
)
def test_what_is_not_implemented_is_named(key, value):
    with pytest.raises(ValueError) as caught:
        read(**{key: value})
    assert str(caught.value).startswith(f"here: {key} = {value!r} is not implemented, only ")


@pytest.mark.parametrize("model_type", ["dream", "llama", None])
def test_unknown_model_type(model_type):
    with pytest.raises(
        ValueError, match="is not supported; supported are llada, illada, llava_llada, Dream"
    ) as caught:
        read(model_type=model_type)
    assert repr(model_type) in str(caught.value)


def test_missing_keys_are_named():
    with pytest.raises(ValueError, match="here: missing d_model, vocab_size, mlp_hidden_size"):
        read(d_model=None, vocab_size=None, mlp_hidden_size=None)
    with pytest.raises(ValueError, match="here: missing hidden_size, num_hidden_layers, "):
        LladaConfig.from_dict({"model_type": "illada"}, "here")


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"n_layers": 0}, "n_layers must be a positive integer, got 0"),
        ({"n_heads": "3"}, "n_heads must be a positive integer, got '3'"),
        ({"n_layers": True}, "n_layers must be a positive integer, got True"),
        ({"n_layers": 10**12}, "n_layers must be at most 65536, got 1000000000000"),
        ({"vocab_size": 2**40}, "vocab_size must be at most 2147483647"),
        ({"pad_token_id": []}, r"pad_token_id must be one token id, got \[\]"),
        ({"rope_theta": -1.0}, "rope_theta must be a positive number, got -1.0"),
        ({"rms_norm_eps": float("nan")}, "rms_norm_eps must be a positive number, got nan"),
        ({"d_model": 49}, "the width 49 is not a multiple of 3 heads"),
        ({"d_model": 45}, r"the head size 15 \(width 45 / 3 heads\) must be even"),
        ({"n_kv_heads": 2}, "3 heads are not a multiple of 2 key-value heads"),
        ({"embedding_size": 60}, "embedding_size 60 is below vocab_size 67"),
        ({"mask_token_id": [1, 2]}, r"mask_token_id must be one token id, got \[1, 2\]"),
        ({"eos_token_id": "</s>"}, "eos_token_id must be a token id or a list of them"),
        ({"eos_token_id": -1}, "eos_token_id must be a token id or a list of them"),
    ],
)
def test_sizes_that_do_not_fit(changes, message):
    with pytest.raises(ValueError, match="here: " + message):
        read(**changes)


@pytest.mark.parametrize(
    "content, message", [("{", "not valid JSON"), ("[1]", "must hold an object")]
)
def test_damaged_file(tmp_path, content, message):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        LladaConfig.from_file(tmp_path / "config.json")


def test_random_config_is_json():
    assert LladaConfig.from_dict(json.loads(json.dumps(random_config()))).vocab_size == 67
