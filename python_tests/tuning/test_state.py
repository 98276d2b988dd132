"""State files: whose results they hold, and what is said of damaged ones."""

from __future__ import annotations

import json

import pytest
import torch

from dlmcache_cuda import calibrate, decode
from dlmcache_cuda.model.packed import packs
from dlmcache_cuda.testing.tiny_model import random_checkpoint, random_model
from dlmcache_cuda.tuning.model_key import model_key
from dlmcache_cuda.tuning.state_file import StateFile

SIZES = {"d_model": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2}
PROMPTS = [[3, 9, 4], [7, 5], [2], [9, 9]]
ARGUMENTS = {"cache": "dual", "gen_length": 8, "target": 0.3, "confidence": 0.5}


@pytest.mark.parametrize("matrix", ["qkv", "attn_out", "gate_up", "ff_out"])
def test_a_change_of_any_matrix_makes_another_model(matrix):
    model = random_model(2, **SIZES)
    before = model_key(model)
    assert before == model_key(random_model(2, **SIZES))
    getattr(model.layers[1].weights, matrix).weight[-1, -1] *= 1.5
    assert model_key(model) != before


@pytest.mark.parametrize("name", ["embedding", "head"])
def test_a_change_of_the_last_token_makes_another_model(name):
    model = random_model(2, **SIZES)
    before = model_key(model)
    getattr(model, name)[-1, -1] *= 1.5
    assert model_key(model) != before


def test_end_tokens_make_another_model(tmp_path):
    from dlmcache_cuda import load

    folder = random_checkpoint(tmp_path, **SIZES)
    assert model_key(load(folder)) == model_key(load(folder))
    assert model_key(load(folder)) != model_key(load(folder, end_token_ids=()))


def test_threads_and_a_proxy_do_not(llada):
    before = model_key(llada)
    decode(llada, PROMPTS, gen_length=8, cache="spa")
    assert llada.layers[0].weights.proxy_rank > 0
    assert model_key(llada) == before


@pytest.mark.skipif(not packs("cpu", torch.float32), reason="this processor packs no matrices")
def test_packed_matrices_count_and_are_left_as_they_are():
    sizes = SIZES | {"d_model": 256, "n_layers": 1, "mlp_hidden_size": 1024}
    model, other = random_model(2, **sizes), random_model(2, **sizes)
    parts = model.layers[0].weights.gate_up.stored
    key = model_key(model)
    assert model.layers[0].weights.gate_up.stored is parts and key == model_key(other)
    weights = other.layers[0].weights
    changed = weights.gate_up.rows().clone()
    changed[5, 7] += 1
    other.layers[0].weights = type(weights)(
        weights.attn_norm, weights.qkv, weights.attn_out, weights.ff_norm,
        type(weights.gate_up)(changed), weights.ff_out,
    )  # fmt: skip
    assert model_key(other) != key


def test_a_fine_tune_shares_no_results(tmp_path):
    model, state = random_model(2, **SIZES), tmp_path / "state.jsonl"
    calibrate(model, PROMPTS, state=state, **ARGUMENTS)
    assert calibrate(model, PROMPTS, state=state, **ARGUMENTS).forwards == 0
    for layer in model.layers:
        layer.weights.gate_up.weight.mul_(1.3)
    assert calibrate(model, PROMPTS, state=state, **ARGUMENTS).forwards > 0


@pytest.mark.parametrize("length", [0, 1, 20, None])
def test_a_file_cut_within_its_first_line_is_empty(tmp_path, length):
    path = tmp_path / "state.jsonl"
    StateFile(path)
    header = path.read_bytes()
    path.write_bytes(header[:length] if length is not None else header[:-1])
    StateFile(path).put("a", 3)
    assert path.read_bytes().startswith(header) and StateFile(path).get("a") == 3


@pytest.fixture
def written(tmp_path):
    """A state of one calibration: model, cache, file."""
    model, path = random_model(2, **SIZES), tmp_path / "state.jsonl"
    calibrate(model, PROMPTS, state=path, **ARGUMENTS | {"cache": "composed"})
    return model, path


@pytest.mark.parametrize(
    "change",
    [
        lambda value: 5,
        lambda value: [],
        lambda value: {name: value[name] for name in value if name != "rows"},
        lambda value: value | {"more": 1},
        lambda value: value | {"ids": 3},
        lambda value: value | {"visible": ["a"]},
        lambda value: value | {"rows": None},
        lambda value: value | {"seconds": "1"},
    ],
)
def test_a_wrong_response_is_told_by_its_line(written, change):
    model, path = written
    lines = path.read_text().splitlines()
    record = json.loads(lines[2])
    lines[2] = json.dumps(record | {"value": change(record["value"])})
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=r"state\.jsonl, line 3, is damaged: delete that line"):
        calibrate(model, PROMPTS, state=path, **ARGUMENTS | {"cache": "composed"})


@pytest.mark.parametrize(
    "wrong", [3, [], [[0.5]], [[0.5, 0.5], [0.5], [0.5, 0.5]], [["a", "b"]] * 3]
)
def test_wrong_budgets_are_told_by_their_line(written, wrong):
    model, path = written
    lines = path.read_text().splitlines()
    records = [json.loads(line) for line in lines]
    number = next(i for i, r in enumerate(records) if isinstance(r.get("value"), list))
    lines[number] = json.dumps(records[number] | {"value": wrong})
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=rf"line {number + 1}, is damaged: delete that line"):
        calibrate(model, PROMPTS, state=path, **ARGUMENTS | {"cache": "composed"})
