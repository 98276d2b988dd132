"""load(): where checkpoints come from, devices, dtypes, tokenizers."""

from __future__ import annotations

import re

import pytest
import torch

from dlmcache_cuda import _extension
from dlmcache_cuda.model import load
from dlmcache_cuda.testing.tiny_model import random_checkpoint


def test_bundled_checkpoint_is_the_default():
    model = load(device="cpu")
    assert model.name == "tiny_llada" and model.dtype == torch.float32
    assert model.mask_token_id == model.tokenizer.mask_token_id
    assert model.end_token_ids[0] == model.tokenizer.eos_token_id
    chat = [{"role": "user", "content": "start"}]
    assert len(model.tokenizer.apply_chat_template(chat, tokenize=True, return_dict=False)) > 1


def test_overrides_and_name(tmp_path):
    folder = random_checkpoint(tmp_path / "mine")
    model = load(str(folder), device="cpu", mask_token_id=1, end_token_ids=(2, 3))
    assert (model.mask_token_id, model.end_token_ids) == (1, (2, 3))
    assert model.name == "mine" and model.path == folder and "mine, 2 layers" in repr(model)


def test_tokenizer(tmp_path):
    model = load(random_checkpoint(tmp_path, tokenizer=True), device="cpu")
    assert model.tokenizer("w5 w7")["input_ids"] == [5, 7]
    assert model.tokenizer is model.tokenizer
    assert model.decode_text(torch.tensor([5, 7, model.end_token_ids[0]])).split() == ["w5", "w7"]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("tokenizer_config.json", "[]", "tokenizer_config.json: must hold an object, got list"),
        ("tokenizer_config.json", "{", "tokenizer_config.json: not valid JSON"),
        ("tokenizer.json", "{", "transformers cannot read the tokenizer: "),
        ("tokenizer.json", None, "transformers cannot read the tokenizer: "),
    ],
)
def test_damaged_tokenizer(tmp_path, file, content, message):
    folder = random_checkpoint(tmp_path, tokenizer=True)
    (folder / file).unlink()
    if content is not None:
        (folder / file).write_text(content)
    model = load(folder, device="cpu")
    with pytest.raises(ValueError, match=f"{re.escape(str(folder))}.*{message}"):
        _ = model.tokenizer


@pytest.mark.parametrize("path", [5, b"x", ["a"]])
def test_path_of_another_type(path):
    with pytest.raises(TypeError, match="load: path must be a folder, a hub id or None, got "):
        load(path)


def test_no_tokenizer(tmp_path):
    model = load(random_checkpoint(tmp_path), device="cpu")
    assert model.decode_text([1, 2]) is None
    with pytest.raises(FileNotFoundError, match="no tokenizer .* pass prompts as token ids"):
        _ = model.tokenizer


@pytest.mark.parametrize("device", ["gpu", "mps", "meta", 1.5, "cuda:x"])
def test_bad_device(tmp_path, device):
    with pytest.raises(ValueError, match="load: device must be cpu, cuda or cuda:N, got") as caught:
        load(tmp_path, device=device)
    assert repr(device) in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_cuda_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setattr(_extension, "has_cuda", lambda: True)
    with pytest.raises(ValueError, match="load: device 'cuda:0', but torch .* sees no GPU"):
        load(tmp_path, device="cuda:0")
    monkeypatch.setattr(_extension, "has_cuda", lambda: False)
    with pytest.raises(
        ValueError, match=r"built without \(.*\); rebuild with DLMCACHE_WITH_CUDA=1"
    ):
        load(tmp_path, device="cuda")


@pytest.mark.parametrize("dtype", ["fp32", "int8", torch.int64, torch.float64, 32, "torch.float32"])
def test_bad_dtype(tmp_path, dtype):
    message = "load: dtype must be float32, float16, bfloat16, got "
    with pytest.raises(ValueError, match=message) as caught:
        load(tmp_path, dtype=dtype, device="cpu")
    assert str(caught.value).endswith(repr(dtype))


@pytest.mark.parametrize("weights", ["int8", "FP8", torch.float8_e4m3fn, True, ""])
def test_bad_weights(tmp_path, weights):
    with pytest.raises(ValueError) as caught:
        load(tmp_path, weights=weights, device="cpu")
    assert str(caught.value) == f"load: weights must be 'fp8' or None, got {weights!r}"


@pytest.mark.parametrize(
    "sizes, what",
    [
        ({"d_model": 40, "n_heads": 4, "n_kv_heads": 4}, "the width is 40"),
        ({"d_model": 64, "n_heads": 8, "n_kv_heads": 1}, "the width of keys and values is 8"),
        (
            {"d_model": 64, "n_heads": 4, "n_kv_heads": 4, "mlp_hidden_size": 90},
            "the inner width is 90",
        ),
    ],
)
def test_fp8_sizes(tmp_path, sizes, what):
    folder = random_checkpoint(tmp_path, **sizes)
    load(folder, device="cpu")
    message = f"weights 'fp8' needs sizes that are multiples of 16, but {what}; leave weights out"
    with pytest.raises(ValueError, match=message):
        load(folder, device="cpu", weights="fp8")


def test_path_that_is_no_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match="has no config.json"):
        load(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"")
    with pytest.raises(NotADirectoryError, match="model.safetensors is a file; pass the folder"):
        load(file)
    with pytest.raises(FileNotFoundError, match="load: .*nowhere does not exist"):
        load(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="load: ./nowhere/at-all does not exist"):
        load("./nowhere/at-all")


def test_hub_id_that_cannot_be_fetched(monkeypatch):
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    message = "load: 'nobody/nothing-here' is neither a folder here nor a checkpoint that could be"
    with pytest.raises(FileNotFoundError, match=message):
        load("nobody/nothing-here")


def test_hub_id_fetches_data_only(tmp_path, monkeypatch):
    import huggingface_hub

    asked = []

    def snapshot_download(hub_id, allow_patterns):
        asked.append((hub_id, allow_patterns))
        return str(random_checkpoint(tmp_path))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    model = load("someone/some-llada", device="cpu")
    assert model.name == "someone/some-llada"
    assert asked[0] == ("someone/some-llada", ["config.json"])
    assert not any(".py" in pattern or ".bin" in pattern for pattern in asked[1][1])


def test_hub_config_is_checked_before_the_weights_are_fetched(tmp_path, monkeypatch):
    import huggingface_hub

    asked = []

    def snapshot_download(hub_id, allow_patterns):
        asked.append(allow_patterns)
        return str(random_checkpoint(tmp_path, model_type="llama"))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(ValueError, match="model_type 'llama' is not supported"):
        load("someone/some-llama", device="cpu")
    assert asked == [["config.json"]]
