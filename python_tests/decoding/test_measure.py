"""Budgets measured from a model: what is compared, and how shares become ratios."""

from __future__ import annotations

import pytest
import torch

from dlmcache_cuda import decode, measure_layer_ratios
from dlmcache_cuda.decoding import measure, memory
from dlmcache_cuda.decoding.measure import ratios_of_drift
from dlmcache_cuda.policies.composed import ComposedConfig
from dlmcache_cuda.policies.spa import SpaConfig
from dlmcache_cuda.testing.tiny_model import random_model

SIZES = {"d_model": 32, "n_layers": 4, "n_heads": 4, "n_kv_heads": 2}
PROMPTS = [[3, 9, 4], [7, 5, 8, 1, 12], [2]]
DECODING = {"gen_length": 12, "block_length": 6}


@pytest.fixture(params=["llada", "Dream"])
def model(request):
    return random_model(2, model_type=request.param, **SIZES)


@pytest.mark.parametrize("mean_ratio", [0.0625, 0.16, 0.5, 1.0])
def test_ratios_have_the_mean_and_the_bounds(model, mean_ratio):
    ratios = measure_layer_ratios(model, PROMPTS, mean_ratio=mean_ratio, **DECODING)
    assert isinstance(ratios, tuple) and len(ratios) == 4
    assert all(type(ratio) is float and 1 / 16 <= ratio <= 1 for ratio in ratios)
    assert sum(ratios) / 4 == pytest.approx(mean_ratio)


def test_ratios_do_not_depend_on_the_batch(model):
    alone = measure_layer_ratios(model, PROMPTS, batch_size=1, **DECODING)
    assert measure_layer_ratios(model, PROMPTS, batch_size=2, **DECODING) == pytest.approx(alone)
    assert measure_layer_ratios(model, PROMPTS[::-1], **DECODING) == pytest.approx(alone)


def test_what_does_not_fit_is_refused(model, monkeypatch):
    monkeypatch.setattr(memory, "available_bytes", lambda device: 1000)
    with pytest.raises(MemoryError, match="decoding needs"):
        measure_layer_ratios(model, PROMPTS, **DECODING)


def test_both_methods_take_the_ratios(model):
    ratios = measure_layer_ratios(model, PROMPTS, **DECODING)
    for config in (SpaConfig(layer_ratios=ratios), ComposedConfig(layer_ratios=ratios)):
        assert decode(model, PROMPTS, cache=config, **DECODING).stats.rows_computed > 0


def values_of_steps(model, prompt, gen_length, steps):
    """``[T, L, N, kv]``: the values of whole canvases, from the canvases that decode leaves."""
    canvases = []
    tokens = torch.cat((torch.tensor(prompt), torch.full((gen_length,), model.mask_token_id)))
    out = decode(model, [prompt], gen_length=gen_length, steps=steps, stop_at_eos=False)
    sequence = out.sequences[0]
    for step in range(sequence.forwards):
        canvas = tokens.clone()
        done = sequence.commit_step < step
        canvas[len(prompt) :][done] = sequence.ids[done]
        canvases.append(canvas)
    return torch.stack([values_of(model, canvas) for canvas in canvases])


def values_of(model, canvas):
    from dlmcache_cuda.cache import RowList

    length = len(canvas)
    cache = model.new_cache(1, length)
    rows = RowList.from_ranges([0], [length], length)
    model.forward_rows(canvas, rows, cache, torch.tensor([length]), [length])
    values = torch.stack([layer.flatten(1) for layer in cache.v])
    biases = [layer.weights.qkv_bias for layer in model.layers]
    if biases[0] is not None:
        values -= torch.stack([bias[-values.shape[-1] :] for bias in biases])[:, None]
    return values


def test_drifts_are_those_of_the_values_of_generated_rows(model, monkeypatch):
    seen = []
    keep = measure.ratios_of_drift
    monkeypatch.setattr(measure, "ratios_of_drift", lambda d, *a: seen.append(d) or keep(d, *a))
    prompt, length, steps = PROMPTS[1], 6, 6
    monkeypatch.setattr(model, "end_token_ids", ())
    measure_layer_ratios(model, [prompt], gen_length=length, steps=steps)
    values = values_of_steps(model, prompt, length, steps)[:, :, len(prompt) - model.shift :]
    expected = 1 - torch.cosine_similarity(values[1:].double(), values[:-1].double(), dim=-1)
    expected = expected.permute(1, 0, 2).flatten(1).float()
    torch.testing.assert_close(seen[0], expected, atol=1e-5, rtol=1e-3)


def test_ratios_follow_the_shares_above_one_threshold():
    drifts = torch.stack((torch.arange(100) / 1000, torch.arange(100) / 100))
    low, high = ratios_of_drift(drifts, 0.3, 0.0)
    assert (low, high) == pytest.approx((0.0, 0.6), abs=0.011)
    assert ratios_of_drift(drifts, 0.3, 0.1) == pytest.approx((0.1, 0.5), abs=0.011)


def test_rows_that_share_a_drift_are_taken_in_part():
    assert ratios_of_drift(torch.zeros(3, 10), 0.25, 0.0) == pytest.approx((0.25,) * 3)
    drifts = torch.zeros(2, 10)
    drifts[1, :4] = 0.5
    low, high = ratios_of_drift(drifts, 0.4, 0.0)
    assert (low + high) / 2 == pytest.approx(0.4) and low < high


def test_drifts_that_overflowed_count_as_large():
    drifts = torch.zeros(2, 10)
    drifts[1, :4] = float("nan")
    assert ratios_of_drift(drifts, 0.2, 0.0) == pytest.approx((0.0, 0.4))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"mean_ratio": 0.0}, "mean_ratio must be a number in"),
        ({"mean_ratio": 1.5}, "mean_ratio must be a number in"),
        ({"min_ratio": -1}, "min_ratio must be a number in"),
        ({"min_ratio": 0.5}, r"mean_ratio must be a number in \[0.5, 1\]"),
        ({"block_length": 5}, "block_length must divide"),
        ({"steps": 1, "block_length": None}, "every sequence ended with its first step"),
    ],
)
def test_wrong_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        measure_layer_ratios(random_model(2), PROMPTS, **DECODING | arguments)
