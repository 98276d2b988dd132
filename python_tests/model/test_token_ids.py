"""Mask and end ids: user, config, table, or an error; never a default."""

from __future__ import annotations

import pytest

from dlmcache_cuda.model import LladaConfig
from dlmcache_cuda.model.token_ids import TokenIds, resolve_token_ids
from dlmcache_cuda.testing.tiny_model import random_config

LLADA_8B = {"d_model": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": 32, "vocab_size": 126464}
ILLADA_8B = {
    "model_type": "illada",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "intermediate_size": 14336,
    "max_position_embeddings": 8192,
    "vocab_size": 155136,
    "rope_theta": 1e6,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": True,
    "eos_token_id": 2,
}

DREAM_7B = {
    "model_type": "Dream",
    "hidden_size": 3584,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "intermediate_size": 18944,
    "max_position_embeddings": 131072,
    "vocab_size": 152064,
    "rope_theta": 1e6,
    "rms_norm_eps": 1e-6,
}


def llada(**changes) -> LladaConfig:
    return LladaConfig.from_dict({**random_config(), **changes})


def test_config_gives_the_ids():
    assert resolve_token_ids(llada(), "here") == TokenIds(66, (65,), 65)
    ids = resolve_token_ids(llada(eos_token_id=[7, 8, 7], pad_token_id=None), "here")
    assert ids == TokenIds(66, (7, 8), 7)


def test_llada_8b_ends_at_eot_too():
    published = {"mask_token_id": 126336, "eos_token_id": 126081, "pad_token_id": 126081}
    config = llada(**LLADA_8B, embedding_size=126464, **published)
    assert resolve_token_ids(config, "here") == TokenIds(126336, (126081, 126348), 126081)


def test_table_fills_what_the_config_leaves_out():
    nothing = {"mask_token_id": None, "eos_token_id": None, "pad_token_id": None}
    config = llada(**LLADA_8B, embedding_size=126464, **nothing)
    assert resolve_token_ids(config, "here") == TokenIds(126336, (126081, 126348), 126081)
    config = LladaConfig.from_dict(ILLADA_8B)
    assert resolve_token_ids(config, "here") == TokenIds(5, (2,), 2)
    sizes = {**LLADA_8B, "vocab_size": 155136, "embedding_size": 155136}
    config = llada(**sizes, mask_token_id=None, eos_token_id=2, pad_token_id=None)
    assert resolve_token_ids(config, "here") == TokenIds(5, (2,), 2)


def test_dream_ends_a_turn_too():
    config = LladaConfig.from_dict(DREAM_7B)
    assert resolve_token_ids(config, "here") == TokenIds(151666, (151643, 151645), 151643)
    published = {"mask_token_id": 151666, "eos_token_id": 151643, "pad_token_id": 151643}
    config = LladaConfig.from_dict({**DREAM_7B, **published})
    assert resolve_token_ids(config, "here") == TokenIds(151666, (151643, 151645), 151643)


def test_user_wins():
    ids = resolve_token_ids(llada(), "here", mask_token_id=3, end_token_ids=[4, 5])
    assert ids == TokenIds(3, (4, 5), 65)
    config = llada(pad_token_id=None)
    assert resolve_token_ids(config, "here", end_token_ids=[]) == TokenIds(66, (), 66)


@pytest.mark.parametrize(
    "changes, key, argument",
    [
        ({"mask_token_id": None}, "mask_token_id", r"mask_token_id=ID"),
        ({"eos_token_id": None}, "eos_token_id", r"end_token_ids=\[ID, ...\]"),
        # The vocabulary of LLaDA-8B in a model of another size proves nothing.
        ({"mask_token_id": None, "vocab_size": 126464, "embedding_size": None}, "mask", "mask"),
    ],
)
def test_unknown_ids_say_how_to_pass_them(changes, key, argument):
    with pytest.raises(
        ValueError, match=rf"here: {key}.* is not known: .*load\(\.\.\., {argument}"
    ):
        resolve_token_ids(llada(**changes), "here")


@pytest.mark.parametrize(
    "options, message",
    [
        ({"mask_token_id": 67}, "mask_token_id 67 lies outside the vocabulary of 67"),
        ({"mask_token_id": -1}, "mask_token_id -1 lies outside"),
        ({"end_token_ids": [3, 99]}, "end token id 99 lies outside"),
        ({"mask_token_id": "<mask>"}, "mask_token_id must be an integer, got '<mask>'"),
        ({"end_token_ids": [66]}, "66 is given as the mask and as an end of text"),
    ],
)
def test_bad_ids(options, message):
    with pytest.raises(ValueError, match=f"here: {message}"):
        resolve_token_ids(llada(), "here", **options)


@pytest.mark.parametrize("ids", [5, "5", b"5"])
def test_end_token_ids_that_are_no_list(ids):
    with pytest.raises(TypeError, match="here: end_token_ids must be a list of token ids, got"):
        resolve_token_ids(llada(), "here", end_token_ids=ids)
