"""What a request makes of the server's settings."""

from __future__ import annotations

import argparse

import pytest

from dlmcache_cuda.cli.options import decode_options
from dlmcache_cuda.cli.serve import add_arguments
from dlmcache_cuda.policies import CalibratedCache
from dlmcache_cuda.policies.elastic import ElasticConfig
from dlmcache_cuda.policies.fast_dllm import DualConfig
from dlmcache_cuda.policies.spa import SpaConfig
from dlmcache_cuda.serving import LaneSettings, Limits
from dlmcache_cuda.serving.decode_settings import (
    cache_from_json,
    lane_settings,
    settings_of_options,
)
from dlmcache_cuda.serving.errors import ApiError

from .conftest import run_server

BASE = LaneSettings(cache=DualConfig(), block_length=32, threshold=0.9)


@pytest.mark.parametrize(
    ("base", "given", "changed"),
    [
        (BASE, {}, {}),
        (BASE, {"temperature": 0.5, "top_p": 1}, {"temperature": 0.5, "top_p": None}),
        (BASE, {"steps": 32}, {"threshold": None, "steps_per_block": 16}),
        (BASE, {"factor": 1.5}, {"threshold": None, "factor": 1.5}),
        (BASE, {"alg": "entropy"}, {"threshold": None, "alg": "entropy"}),
        (
            LaneSettings(alg="entropy", top_p=0.9, steps_per_block=8),
            {"threshold": 0.7},
            {"alg": None, "top_p": None, "threshold": 0.7, "steps_per_block": None},
        ),
        (LaneSettings(alg="entropy", top_p=0.9), {"top_p": 1}, {"alg": "entropy", "top_p": None}),
        (BASE, {"cache": {"name": "elastic", "gamma": 0.5}}, {"cache": ElasticConfig(gamma=0.5)}),
    ],
)
def test_request_takes_back_what_it_excludes(model, base, given, changed):
    settings, gen_length = lane_settings(model, base, given, max_tokens=50, max_length=512)
    assert gen_length == 64
    for name, value in changed.items():
        assert getattr(settings, name) == value
    same = {"cache", "block_length", "temperature"} - changed.keys()
    assert all(getattr(settings, name) == getattr(base, name) for name in same)
    assert hash(settings) == hash(
        lane_settings(model, base, given, max_tokens=64, max_length=512)[0]
    )


def test_steps_per_block_hold_for_every_length(model):
    short, _ = lane_settings(model, BASE, {"steps": 16}, max_tokens=32, max_length=512)
    long, _ = lane_settings(model, BASE, {"steps": 64}, max_tokens=128, max_length=512)
    assert short == long, "they could not share a lane"
    assert long.arguments(128)["steps"] == 64


def test_both_of_two_that_exclude_each_other(model):
    with pytest.raises(ApiError, match="threshold and factor exclude each other"):
        lane_settings(model, BASE, {"threshold": 0.9, "factor": 1.0}, max_tokens=32, max_length=512)


def test_calibrated_cache_brings_what_it_was_found_with(tmp_path):
    path = tmp_path / "cache.json"
    CalibratedCache(DualConfig(), {"block_length": 16, "threshold": 0.7}).save(path)
    parser = argparse.ArgumentParser()
    add_arguments(parser)

    def settings(*more: str) -> LaneSettings:
        options = decode_options(parser.parse_args(["--cache", str(path), *more]))
        return settings_of_options(options)

    assert settings() == LaneSettings(cache=DualConfig(), block_length=16, threshold=0.7)
    assert settings("--threshold", "0.9").threshold == 0.9
    assert settings("--steps", "32", "--block-length", "8") == LaneSettings(
        cache=DualConfig(), block_length=8, threshold=None
    )
    hash(settings())


def test_lists_are_tuples_in_settings():
    config = cache_from_json({"name": "spa", "layer_ratios": [0.5, 0.25]}, 512)
    assert isinstance(config, SpaConfig) and config.layer_ratios == (0.5, 0.25)


def test_one_block_serves_every_length(model, questions):
    import dlmcache_cuda

    with run_server(model, settings=LaneSettings(block_length=None)) as server:
        for length, steps in ((10, None), (30, None), (30, 7)):
            body = {"prompt": questions[0], "max_tokens": length, "steps": steps}
            status, content = server.post("/v1/completions", body)
            expected = dlmcache_cuda.decode(
                model, questions[0], gen_length=length, steps=steps, seed=0
            )
            assert status == 200
            assert content["choices"][0]["text"] == expected.text[0]


@pytest.mark.parametrize(
    ("given", "fitted"),
    [
        ({}, (256, 256)),
        ({"max_gen_length": 400}, (112, 400)),
        ({"max_prompt_length": 500}, (500, 12)),
        ({"max_prompt_length": 100, "max_gen_length": 100}, (100, 100)),
    ],
)
def test_lengths_fit_the_model(given, fitted):
    limits = Limits(**given).fitted_to(512, given)
    assert (limits.max_prompt_length, limits.max_gen_length) == fitted


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"num_slots": 0}, ValueError, "num_slots must be at least 1, got 0"),
        ({"num_slots": 1.5}, TypeError, "num_slots must be an integer, got 1.5"),
        ({"max_queue": True}, TypeError, "max_queue must be an integer, got True"),
        ({"body_seconds": "1"}, TypeError, "body_seconds must be a number, got '1'"),
        ({"lane_idle_seconds": -1.0}, ValueError, "lane_idle_seconds must be at least 0"),
    ],
)
def test_wrong_limits_are_refused(given, error, message):
    with pytest.raises(error, match=message):
        Limits(**given)
