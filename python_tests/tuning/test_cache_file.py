"""Caches with their settings as files: what is written, read, refused, and what decode does."""

from __future__ import annotations

import json

import pytest

from dlmcache_cuda import CalibratedCache, available_policies, decode, load_cache, predict_memory
from dlmcache_cuda.policies import make_policy
from dlmcache_cuda.policies.composed import ComposedConfig
from dlmcache_cuda.policies.elastic import ElasticConfig

PROMPTS = [[3, 9, 4], [7, 5]]


@pytest.mark.parametrize("name", list(available_policies()))
def test_files_hold_every_config(name, tmp_path):
    for config in (available_policies()[name].Config(), available_policies()[name].exact_config()):
        path = CalibratedCache(config, {"gen_length": 8}, {"model": "m"}).save(tmp_path / "c.json")
        read = load_cache(path)
        assert (read.config, read.policy) == (config, name)
        assert read.decode == {"gen_length": 8} and read.calibration == {"model": "m"}
        assert type(make_policy(str(path))) is available_policies()[name]


def test_budgets_come_back_as_tuples(tmp_path):
    config = ComposedConfig(layer_ratios=(0.5, 0.25))
    assert load_cache(CalibratedCache(config).save(tmp_path / "c.json")).config == config


def test_decode_takes_path_and_object(llada, tmp_path):
    config = ElasticConfig(gamma=0.5, window_length=3)
    calibrated = CalibratedCache(config, {"block_length": 4, "threshold": 0.1})
    path = calibrated.save(tmp_path / "c.json")
    expected = decode(llada, PROMPTS, gen_length=8, cache=config, block_length=4, threshold=0.1)
    for cache in (path, str(path), calibrated, load_cache(path)):
        out = decode(llada, PROMPTS, gen_length=8, cache=cache)
        for one, other in zip(out.sequences, expected.sequences, strict=True):
            assert one.commit_step.equal(other.commit_step) and one.ids.equal(other.ids)
        assert out.stats.rows_computed == expected.stats.rows_computed
    assert predict_memory(llada, 5, gen_length=8, cache=str(path)).total > 0


@pytest.mark.parametrize(
    "given", [{"threshold": 0.9}, {"steps": 4}, {"factor": 0.5}, {"remasking": "random"}], ids=str
)
def test_what_a_call_says_comes_first(llada, given):
    config = ElasticConfig(gamma=0.5, window_length=3)
    calibrated = CalibratedCache(config, {"block_length": 4, "threshold": 0.1})
    out = decode(llada, PROMPTS, gen_length=8, block_length=8, cache=calibrated, seed=0, **given)
    expected = decode(llada, PROMPTS, gen_length=8, cache=config, seed=0, **given)
    for one, other in zip(out.sequences, expected.sequences, strict=True):
        assert one.commit_step.equal(other.commit_step)


def test_arguments_decode_as_calibrated(llada):
    calibrated = CalibratedCache(ElasticConfig(), {"gen_length": 8, "block_length": 4})
    assert decode(llada, PROMPTS, **calibrated.arguments()).ids[0].numel() == 8


def test_a_block_length_that_does_not_fit_says_where_it_comes_from(llada):
    calibrated = CalibratedCache(ElasticConfig(), {"block_length": 4})
    with pytest.raises(ValueError, match="calibrated with block_length=4, which does not divide"):
        decode(llada, PROMPTS, gen_length=6, cache=calibrated)


def written(tmp_path, **changes):
    data = CalibratedCache(ElasticConfig()).to_dict() | changes
    path = tmp_path / "c.json"
    path.write_text(json.dumps(data))
    return path


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"format": "other"}, "is not a file of cache settings"),
        ({"version": 2}, "has version 2; this dlmcache_cuda reads version 1"),
        ({"policy": "elastik"}, "policy must be one of none, composed.* got 'elastik'"),
        ({"policy": None}, "policy must be one of"),
        ({"config": {"gama": 1}}, "'elastic' has no setting 'gama'; it has gamma, window_length"),
        ({"config": {"gamma": "x"}}, "c.json: gamma must be"),
        ({"config": []}, r"config must be an object, got \[\]"),
        ({"decode": 3}, "decode must be an object, got 3"),
    ],
)
def test_wrong_files_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        load_cache(written(tmp_path, **changes))


def test_other_files_and_none_are_refused(llada, tmp_path):
    with pytest.raises(FileNotFoundError, match="cache: there is no file"):
        decode(llada, PROMPTS, gen_length=4, cache=str(tmp_path / "none.json"))
    (tmp_path / "text.json").write_text("hello")
    with pytest.raises(ValueError, match="is not a JSON file"):
        load_cache(tmp_path / "text.json")
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(ValueError, match="is not a file of cache settings"):
        load_cache(tmp_path / "list.json")


def test_settings_left_out_are_the_defaults(tmp_path):
    assert load_cache(written(tmp_path, config={})).config == ElasticConfig()
