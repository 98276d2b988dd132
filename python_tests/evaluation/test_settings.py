"""What decides how a request is decoded."""

from __future__ import annotations

import pytest

pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install lm-eval==0.4.13")

from dlmcache_cuda.evaluation.settings import DECODE_SETTINGS, GenerationSettings, check
from dlmcache_cuda.policies import available_policies, make_policy
from dlmcache_cuda.policies.elastic import ElasticConfig


def of(arguments, **request):
    return GenerationSettings.from_arguments(arguments).of_request(request).arguments()


def test_cache_settings_are_model_arguments():
    assert of({"cache": "elastic", "gamma": 0.8})["cache"] == ElasticConfig(gamma=0.8)
    ratios = of({"cache": "spa", "layer_ratios": "0.1;0.2"})["cache"].layer_ratios
    assert ratios == (0.1, 0.2)
    assert of({"cache": "composed", "gamma": "none"})["cache"].gamma is None


def test_the_request_comes_first_then_the_model_then_what_tasks_say_to_any_model():
    model = {"gen_length": 64, "threshold": 0.9, "temperature": 0.2, "cache": "dual"}
    asked = {"max_gen_toks": 32, "do_sample": False, "until": ["\n"]}
    assert of(model, **asked)["gen_length"] == 64
    assert of(model, **asked)["temperature"] == 0.2
    assert of({}, **asked) == {"gen_length": 32, "cache": "none"}
    own = of(model, threshold=0.5, gen_length=16, cache="elastic", gamma=0.7, **asked)
    assert (own["threshold"], own["gen_length"], own["cache"].gamma) == (0.5, 16, 0.7)
    assert of(model, threshold=None, factor=1.0, **asked).get("threshold") is None


def test_a_request_that_samples_gets_its_temperature():
    assert of({}, do_sample=True, temperature=0.5)["temperature"] == 0.5
    assert of({}, temperature=0.5)["temperature"] == 0.5
    assert "temperature" not in of({}, do_sample=False, temperature=0.5)
    assert "top_p" not in of({}, do_sample=False, top_p=0.9)


def test_lengths_are_rounded_up_to_blocks_and_cut_again():
    settings = GenerationSettings.from_arguments({"block_length": 32})
    request = settings.of_request({"max_gen_toks": 40})
    assert (request.gen_length, request.max_tokens) == (64, 40)
    short = settings.of_request({"max_gen_toks": 5})
    assert (short.gen_length, dict(short.decode)) == (5, {})
    assert GenerationSettings().of_request({}).gen_length == 256


def test_equal_requests_share_a_call():
    settings = GenerationSettings.from_arguments({"cache": "elastic"})
    one, two = (settings.of_request({"until": [stop], "gamma": 0.8}) for stop in "ab")
    assert hash(one) == hash(two) and one == two


@pytest.mark.parametrize("cache", list(available_policies()))
def test_names_of_caches_and_of_decode_do_not_collide(cache):
    import dataclasses

    names = {entry.name for entry in dataclasses.fields(make_policy(cache).config)}
    assert not names & {*DECODE_SETTINGS, "gen_length", "seed", "batch_size", "mc_num"}


def test_wrong_names_are_refused_and_those_of_other_models_ignored():
    with pytest.raises(ValueError, match="'gama' is no argument.*one of the cache 'elastic'"):
        GenerationSettings.from_arguments({"cache": "elastic", "gama": 0.9})
    with pytest.raises(ValueError, match="cache must be one of"):
        GenerationSettings.from_arguments({"cache": "magic"})
    settings = GenerationSettings.from_arguments({"cache": "elastic"})
    assert settings.ignored({"num_beams": 1, "gamma": 0.9, "until": []}) == {"num_beams"}
    with pytest.raises(ValueError, match="got treshold"):
        check({"treshold": 0.9, "until": "x"})
    check({"threshold": 0.9, "cache": "elastic", "gamma": 0.9})
