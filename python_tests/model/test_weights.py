"""Reading weights: layouts that load, and a clear message for every fault."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from dlmcache_cuda.model import load
from dlmcache_cuda.model.native import native_dtypes
from dlmcache_cuda.testing.tiny_model import (
    random_checkpoint,
    random_config,
    random_weights,
    write_checkpoint,
)


@pytest.fixture
def parts():
    config = random_config()
    return config, random_weights(config)


def refusal(folder, error=ValueError, **options):
    with pytest.raises(error) as caught:
        load(folder, device="cpu", **options)
    assert str(folder) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("prefix", ["model.transformer.", "transformer.", "model.", ""])
@pytest.mark.parametrize("shards", [1, 3])
def test_layouts_load(tmp_path, parts, prefix, shards):
    config, weights = parts
    write_checkpoint(tmp_path, config, weights, shards=shards, prefix=prefix)
    model = load(tmp_path, device="cpu")
    width, block = model.config.d_model, model.layers[1].weights
    assert torch.equal(block.qkv.rows(0, width), weights["blocks.1.q_proj.weight"])
    assert torch.equal(block.qkv.rows(2 * width), weights["blocks.1.v_proj.weight"])
    assert torch.equal(block.gate_up.rows(0, 80), weights["blocks.1.ff_proj.weight"])
    assert torch.equal(block.ff_out.rows(), weights["blocks.1.ff_out.weight"])
    assert torch.equal(model.head, weights["ff_out.weight"])
    assert model.weight_bytes == sum(weight.nbytes for weight in weights.values())


def test_stored_rope_buffers_are_ignored(tmp_path, parts):
    config, weights = parts
    weights["blocks.0.rotary_emb.inv_freq"] = torch.ones(8)
    load(write_checkpoint(tmp_path, config, weights), device="cpu")


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("asked", [None, "float32", "bfloat16", torch.float16], ids=str)
def test_dtypes(tmp_path, stored, asked, device):
    random_checkpoint(tmp_path, dtype=stored)
    model = load(tmp_path, device=device, dtype=asked)
    keeps = stored in native_dtypes(torch.device(device))
    default = stored if keeps else torch.float32
    expected = {None: default, "float32": torch.float32, "bfloat16": torch.bfloat16}.get(
        asked, asked
    )
    assert model.dtype == expected == model.layers[0].weights.qkv.rows().dtype


def test_missing_weights_are_named(tmp_path, parts):
    config, weights = parts
    del weights["blocks.1.up_proj.weight"], weights["ln_f.weight"]
    message = refusal(write_checkpoint(tmp_path, config, weights))
    assert "2 missing weights: ln_f.weight, blocks.1.up_proj.weight" in message


def test_extra_weights_are_named_ten_at_most(tmp_path, parts):
    config, weights = parts
    weights |= {f"adapter.{number:02d}": torch.ones(1) for number in range(13)}
    message = refusal(write_checkpoint(tmp_path, config, weights))
    assert "13 unexpected weights: model.transformer.adapter.00, " in message
    assert message.count("adapter") == 10 and message.endswith("and 3 more")


def test_misshaped_weight_is_named_with_both_shapes(tmp_path, parts):
    config, weights = parts
    weights["blocks.0.ff_out.weight"] = torch.ones(80, 48)
    message = refusal(write_checkpoint(tmp_path, config, weights))
    assert "blocks.0.ff_out.weight has shape [80, 48], the config makes it [48, 80]" in message


@pytest.mark.parametrize("name", ["wte.weight", "blocks.1.k_proj.weight", "ln_f.weight"])
@pytest.mark.parametrize("value, word", [("nan", "NaN"), ("-inf", "infinity")])
def test_values_that_are_not_finite(tmp_path, parts, name, value, word):
    config, weights = parts
    weights[name].view(-1)[-1] = float(value)
    assert refusal(write_checkpoint(tmp_path, config, weights)).endswith(f"{name} contains {word}")


def test_overflow_in_the_requested_dtype(tmp_path, parts):
    config, weights = parts
    weights["ln_f.weight"][3] = 1e6
    message = refusal(write_checkpoint(tmp_path, config, weights), dtype="float16")
    assert message.endswith("contains infinity in torch.float16, though not in torch.float32")


def test_quantised_weights(tmp_path, parts):
    config, weights = parts
    weights["blocks.0.q_proj.weight"] = weights["blocks.0.q_proj.weight"].to(torch.int8)
    message = refusal(write_checkpoint(tmp_path, config, weights))
    assert "blocks.0.q_proj.weight is stored as torch.int8; quantised weights" in message


def test_weight_under_two_names(tmp_path, parts):
    config, weights = parts
    named = {f"model.transformer.{name}": weight for name, weight in weights.items()}
    named["transformer.ln_f.weight"] = weights["ln_f.weight"].clone()
    message = refusal(write_checkpoint(tmp_path, config, named, prefix=""))
    assert "model.transformer.ln_f.weight and transformer.ln_f.weight are the same" in message


def test_weight_in_two_shards(tmp_path, parts):
    config, weights = parts
    write_checkpoint(tmp_path, config, weights)
    shard = tmp_path / "model-00002-of-00002.safetensors"
    named = {f"model.transformer.{name}": weight for name, weight in weights.items()}
    save_file(named, shard)
    assert "stands in two shards" in refusal(tmp_path)


def test_missing_shard(tmp_path, parts):
    write_checkpoint(tmp_path, *parts, shards=3)
    (tmp_path / "model-00002-of-00003.safetensors").unlink()
    message = refusal(tmp_path, FileNotFoundError)
    assert "missing 1 of 3 shards: model-00002-of-00003.safetensors" in message


def test_shards_outside_the_folder(tmp_path, parts):
    write_checkpoint(tmp_path, *parts)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"x": "../other.safetensors"}}))
    assert "shards must be files of the same folder" in refusal(tmp_path)


@pytest.mark.parametrize("content", ["[]", "{", '{"weight_map": 3}', '{"weight_map": {"a": 1}}'])
def test_damaged_index(tmp_path, parts, content):
    write_checkpoint(tmp_path, *parts)
    (tmp_path / "model.safetensors.index.json").write_text(content)
    assert "not an index of shards" in refusal(tmp_path)


def test_damaged_file_and_lfs_pointer(tmp_path, parts):
    write_checkpoint(tmp_path, *parts, shards=1)
    file = tmp_path / "model.safetensors"
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    assert "not a readable safetensors file" in refusal(tmp_path)
    file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    assert "Git LFS pointer" in refusal(tmp_path)


def test_no_weights(tmp_path, parts):
    write_checkpoint(tmp_path, *parts, shards=1)
    (tmp_path / "model.safetensors").rename(tmp_path / "weights.safetensors")
    message = refusal(tmp_path, FileNotFoundError)
    assert "neither model.safetensors nor model.safetensors.index.json" in message
    assert "found weights.safetensors" in message
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    assert "only pickled weights (pytorch_model.bin)" in refusal(tmp_path, FileNotFoundError)
