"""calibrate(): the choice, its bounds in forwards, and going on after an interruption."""

from __future__ import annotations

import json

import numpy as np
import pytest

import dlmcache_cuda
from dlmcache_cuda import available_policies, calibrate, decode, load_cache, verify
from dlmcache_cuda.decoding.decoder import SlotDecoder
from dlmcache_cuda.policies.dllm import DllmConfig
from dlmcache_cuda.policies.fast_dllm import DualConfig
from dlmcache_cuda.testing.tiny_model import random_model
from dlmcache_cuda.tuning.evaluator import Evaluator

PROMPTS = [[3, 9, 4], [7, 5, 8, 1, 12], [2], [9, 9], [1, 2, 3, 4], [6, 5], [11, 13, 2], [8]]
# A random model's tokens hang on everything, so little is asked for.
LOOSE = {"gen_length": 8, "target": 0.3, "confidence": 0.5}


@pytest.fixture
def counted(monkeypatch):
    """Steps of sequences that were made."""
    made = [0]
    keep = SlotDecoder.step

    def step(self):
        made[0] += sum(slot is not None for slot in self.slots)
        return keep(self)

    monkeypatch.setattr(SlotDecoder, "step", step)
    return made


@pytest.mark.parametrize("name", [name for name in available_policies() if name != "none"])
def test_every_policy_is_searched(either, name, tmp_path):
    policy = available_policies()[name]
    if either.shift not in policy.shifts:
        with pytest.raises(ValueError, match="is not defined for models"):
            calibrate(either, PROMPTS[:4], cache=name, **LOOSE)
        return
    grid = _narrow(name)
    found = calibrate(either, PROMPTS[:4], cache=name, grid=grid, **LOOSE)
    assert found.candidates == len(found.trials) > 1
    assert all(type(trial.candidate.config) is policy.Config for trial in found.trials)
    json.dumps(found.to_dict())
    assert len(str(found.table(all_trials=True)).splitlines()) > len(found.trials)
    if found.chosen is not None:
        path = found.save(tmp_path / "c.json")
        out = decode(either, PROMPTS[:4], seed=0, gen_length=8, cache=str(path))
        rows = decode(either, PROMPTS[:4], seed=0, **_vanilla(found)).stats.rows_computed
        together = found.chosen.together
        assert out.stats.rows_computed / rows == pytest.approx(together.rows)


def _narrow(name):
    """Few values where the grid has many axes; what is measured stays."""
    return {
        "spa": {"refresh_gen_steps": [2], "refresh_steps": [4]},
        "composed": {"window_length": [4], "gamma": [0.9]},
        "dllm": {"prompt_interval_steps": [8], "gen_interval_steps": [2, 4]},
        "d2": {"refresh_steps": [None], "rollout_p": [0.1]},
        "elastic": {"gamma": [0.5, 0.9]},
        "dkv-greedy": {"window_length": [2]},
        "dkv-pd": {"prompt_refresh_steps": [None]},
    }.get(name, {})


def _vanilla(found):
    return dict(found.settings) | {"gen_length": 8, "cache": "none"}


def test_budgets_are_measured_on_the_model(llada):
    found = calibrate(llada, PROMPTS[:4], cache="spa", grid=_narrow("spa"), **LOOSE)
    measured = {t.candidate.config.layer_ratios for t in found.trials} - {None}
    assert len(measured) == 3
    assert all(len(ratios) == llada.config.n_layers for ratios in measured)


def test_the_choice_is_the_cheapest_that_holds():
    """Whatever the search did, by measuring all candidates on all prompts."""
    model = random_model(2, d_model=32, n_layers=2, n_heads=2, n_kv_heads=2)
    grid = {"refresh_steps": [None, 2, 1]}
    settings = {"gen_length": 8, "block_length": 8}
    found = calibrate(
        model, PROMPTS, cache="dual", grid=grid, target=0.9, confidence=0.6, seed=1, **settings
    )
    # On a random model, exact settings alone are surely good enough; these cost as much as vanilla.
    agreement = {}
    for steps in grid["refresh_steps"]:
        config = DualConfig(refresh_steps=steps)
        result = verify(model, PROMPTS, cache=config, repeats=0, kl_steps=0, seed=1, **settings)
        agreement[steps] = result.agreement
    chosen = found.chosen.candidate.config.refresh_steps
    assert agreement[chosen] >= 0.9
    cheaper = grid["refresh_steps"][: grid["refresh_steps"].index(chosen)]
    assert cheaper and all(agreement[steps] < 0.95 for steps in cheaper)
    verdicts = {t.candidate.config.refresh_steps: t.verdict for t in found.trials}
    assert all(verdicts[s] in ("hopeless", "loses too much", "not confirmed") for s in cheaper)
    assert found.chosen.together.agreement == pytest.approx(agreement[chosen])


@pytest.mark.parametrize("max_forwards", [33, 60, 75, 400])
def test_no_more_forwards_than_allowed(llada, counted, max_forwards):
    found = calibrate(
        llada, PROMPTS[:4], cache="dkv-prefill", batch_size=3, max_forwards=max_forwards, **LOOSE
    )
    assert 0 < counted[0] == found.forwards <= max_forwards
    if not found.complete:
        assert found.chosen is None and "was used up" in found.why_nothing()
        with pytest.raises(ValueError, match="was used up"):
            found.save("never.json")


def test_too_few_forwards_for_the_reference_is_an_error(llada, counted):
    with pytest.raises(ValueError, match="max_forwards=10 is not enough to decode 4 prompts"):
        calibrate(llada, PROMPTS[:4], cache="dual", max_forwards=10, **LOOSE)
    assert counted[0] <= 10


def test_an_interrupted_run_goes_on(llada, counted, tmp_path, monkeypatch):
    grid = {"gamma": [0.5, 0.9], "window_length": [2, 4]}
    arguments = {"cache": "elastic", "batch_size": 2, "grid": grid, **LOOSE}
    straight = calibrate(llada, PROMPTS, **arguments)
    state = tmp_path / "state.jsonl"
    keep, calls = Evaluator._decode, []

    def stop_at_the_seventh(self, *rest):
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt
        keep(self, *rest)

    monkeypatch.setattr(Evaluator, "_decode", stop_at_the_seventh)
    counted[0] = 0
    with pytest.raises(KeyboardInterrupt):
        calibrate(llada, PROMPTS, state=state, **arguments)
    monkeypatch.setattr(Evaluator, "_decode", keep)
    before = counted[0]
    # A line that was being written when the process died.
    state.write_text(state.read_text() + '{"key": "ab')
    resumed = calibrate(llada, PROMPTS, state=state, **arguments)
    assert counted[0] == straight.forwards and 0 < before < straight.forwards
    assert resumed.chosen.candidate == straight.chosen.candidate
    again = calibrate(llada, PROMPTS, state=state, **arguments)
    assert again.forwards == 0 and again.chosen.candidate == straight.chosen.candidate
    # Another seed or model shares nothing.
    assert calibrate(llada, PROMPTS, state=state, temperature=1.0, **arguments).forwards > 0
    other = random_model(3, d_model=32, n_layers=3, n_heads=4, n_kv_heads=2)
    assert calibrate(other, PROMPTS, state=state, **arguments).forwards > 0


def test_files_of_others_are_not_touched(llada, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("mine\n")
    with pytest.raises(ValueError, match="holds no calibration results; not touched"):
        calibrate(llada, PROMPTS, cache="dual", state=path, **LOOSE)
    assert path.read_text() == "mine\n"
    path.write_text('{"format": "dlmcache_cuda calibration results", "version": 9}\n')
    with pytest.raises(ValueError, match="has version 9; this dlmcache_cuda reads version 1"):
        calibrate(llada, PROMPTS, cache="dual", state=path, **LOOSE)


def test_thresholds_and_block_lengths_are_searched_against_one_reference(llada):
    found = calibrate(
        llada, PROMPTS[:4], cache="dual", grid={"refresh_steps": [None]}, thresholds=[0.1, 0.2],
        search_block_lengths=[4, 8], **LOOSE,
    )  # fmt: skip
    overrides = {trial.candidate.overrides for trial in found.trials}
    expected = {(("threshold", t), ("block_length", b)) for t in (0.1, 0.2) for b in (4, 8)}
    assert overrides == expected
    assert found.settings == {"gen_length": 8}
    assert found.cache.decode["threshold"] in (0.1, 0.2)


def test_thresholds_alone_are_searched_without_a_cache(either, tmp_path):
    settings = LOOSE | {"target": 0.01}
    found = calibrate(either, PROMPTS[:4], cache="none", thresholds=[0.01, 0.1], **settings)
    assert found.candidates == 2 and found.chosen.tuned.forwards < 1
    path = found.save(tmp_path / "c.json")
    out = decode(either, PROMPTS[:4], gen_length=8, cache=str(path), seed=0)
    assert max(sequence.forwards for sequence in out.sequences) < 8


def test_block_lengths_are_searched_where_they_matter(llada):
    lengths = {
        dict(trial.candidate.overrides)["block_length"]
        for trial in calibrate(llada, PROMPTS[:4], cache="dual", **LOOSE).trials
    }
    assert lengths == {4, 8}
    given = calibrate(llada, PROMPTS[:4], cache="dual", block_length=4, **LOOSE)
    assert {trial.candidate.overrides for trial in given.trials} == {()}


def test_settings_of_a_config_that_are_not_searched_stay(llada):
    base = DllmConfig(prompt_interval_steps=3)
    grid = {"prompt_interval_steps": [3], "gen_interval_steps": [2], "transfer_ratio": [0.2, 0.5]}
    found = calibrate(llada, PROMPTS[:4], cache=base, grid=grid, **LOOSE)
    assert {t.candidate.config.prompt_interval_steps for t in found.trials} == {3}


def test_scores_replace_tokens(llada, monkeypatch):
    monkeypatch.setattr(llada, "decode_text", lambda ids: " ".join(map(str, list(ids))))
    seen = set()

    def score(index, text):
        seen.add(index)
        return True

    found = calibrate(
        llada, PROMPTS, cache="dual", score=score, target=0.7, confidence=0.6, gen_length=8
    )
    assert seen == set(range(8)) and found.measure == "score"
    assert found.chosen.tuned.score == found.chosen.tuned.score_vanilla == 1
    # All candidates lose nothing, so the cheapest of all is taken.
    assert found.chosen.tuned.rows == min(trial.tuned.rows for trial in found.trials)


def test_nothing_is_chosen_that_loses_more_than_allowed():
    model = random_model(2, d_model=32, n_layers=2, n_heads=2, n_kv_heads=2)
    found = calibrate(
        model, PROMPTS, cache="dual", grid={"refresh_steps": [None]}, block_length=8, gen_length=8,
        target=0.95, confidence=0.5,
    )  # fmt: skip
    assert found.chosen is None and found.complete
    assert "no settings of 'dual' keep agreement at 0.95" in found.why_nothing()
    with pytest.raises(ValueError, match="no settings of 'dual'"):
        _ = found.cache


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"target": 1.0}, ValueError, r"target must be a number in \(0, 1\), got 1.0"),
        ({"target": "x"}, TypeError, "target must be a number"),
        ({"confidence": 0.4}, ValueError, r"confidence must be a number in \[0.5, 1\), got 0.4"),
        ({"held_out": 0}, ValueError, "held_out must be a number"),
        ({"cost": "time"}, ValueError, "cost must be one of rows, forwards, seconds, got 'time'"),
        ({"max_forwards": 0}, ValueError, "max_forwards must be an integer >= 1, got 0"),
        ({"max_forwards": 1.5}, TypeError, "max_forwards must be an integer"),
        ({"cache": "none"}, ValueError, "cache 'none' has no settings to search"),
        ({"cache": "dua"}, ValueError, "Did you mean 'dual'"),
        ({"grid": {"gamma": [1]}}, ValueError, "grid: 'dual' has no setting 'gamma'; it has"),
        ({"grid": 3}, TypeError, "grid must be a mapping of settings to values to try, got 3"),
        ({"thresholds": 3}, ValueError, "thresholds must be a list of values to try, got 3"),
        ({"search_block_lengths": 3}, ValueError, "search_block_lengths must be a list of values"),
        ({"grid": {"refresh_steps": 3}}, ValueError, "refresh_steps must be a list of values"),
        ({"grid": {"refresh_steps": [0]}}, ValueError, "refresh_steps must be None or an integer"),
        ({"thresholds": []}, ValueError, "thresholds must be a list of values to try"),
        ({"thresholds": [2.0]}, ValueError, r"threshold must be a number in \(0, 1\]"),
        ({"search_block_lengths": [3]}, ValueError, "block_length must divide gen_length"),
        ({"score": 1}, TypeError, "score must be callable"),
        ({"treshold": 1}, TypeError, "calibrate got an unknown setting 'treshold'"),
        ({"score": lambda i, t: 1, "target": 0.99}, ValueError, "cannot be shown .* on 6 prompts"),
    ],
)
def test_wrong_arguments_are_refused_before_any_work(llada, counted, arguments, error, message):
    given = {"cache": "dual", "gen_length": 8, "target": 0.5} | arguments
    with pytest.raises(error, match=message):
        calibrate(llada, PROMPTS, **given)
    assert counted[0] == 0


def test_one_prompt_is_too_few(llada):
    with pytest.raises(ValueError, match="prompts must be at least 2"):
        calibrate(llada, PROMPTS[0], cache="dual", gen_length=8)


def test_targets_out_of_reach_are_refused(llada):
    with pytest.raises(ValueError, match=r"target 0.99 cannot be shown .* tokens .* even if"):
        calibrate(llada, PROMPTS, cache="dual", gen_length=8, target=0.99)


def test_a_choice_on_the_bundled_model_holds_on_other_questions():
    from dlmcache_cuda.assets.questions import make_questions

    def chats(seed, count):
        asked = make_questions(count, seed)
        return [[{"role": "user", "content": question.prompt}] for question in asked]

    model = dlmcache_cuda.load()
    grid = {"gamma": [-1.0, 0.7], "window_length": [32]}
    settings = {"gen_length": 96, "threshold": 0.9}
    found = calibrate(
        model, chats(1, 6), cache="elastic", grid=grid, target=0.97, progress=print, **settings
    )
    assert found.chosen.tuned.rows < 0.6
    result = verify(model, chats(2, 6), cache=found.cache, repeats=0, kl_steps=0, gen_length=96)
    assert result.settings["threshold"] == 0.9
    assert result.agreement >= 0.97 and result.rows_relative < 0.6


def test_saved_files_are_named_json(llada, tmp_path):
    found = calibrate(llada, PROMPTS[:4], cache="dual", **LOOSE)
    with pytest.raises(ValueError, match="path must end in .json"):
        found.save(tmp_path / "c.txt")
    assert load_cache(found.save(tmp_path / "c.json")).config == found.chosen.candidate.config
    assert [p.name for p in tmp_path.iterdir()] == ["c.json"]


def test_numbers_of_numpy_are_taken_as_decode_takes_them(llada, tmp_path):
    given = {
        "gen_length": np.int64(8), "temperature": np.float32(0.5), "target": np.float64(0.3),
        "confidence": np.float32(0.5), "seed": np.int64(4), "max_forwards": np.int64(1000),
        "thresholds": np.array([0.1, 0.2]), "search_block_lengths": [np.int64(4)],
        "grid": {"refresh_steps": [np.int64(2), None]}, "cache": "dual",
    }  # fmt: skip
    state = tmp_path / "state.jsonl"
    found = calibrate(llada, PROMPTS[:4], state=state, **given)
    json.dumps(found.to_dict())
    plain = {name: np.asarray(value).tolist() for name, value in given.items() if name != "grid"}
    again = calibrate(llada, PROMPTS[:4], state=state, grid={"refresh_steps": [2, None]}, **plain)
    assert again.forwards == 0 and again.chosen.candidate == found.chosen.candidate
    json.dumps(verify(llada, PROMPTS[:2], cache="dual", gen_length=np.int64(8)).to_dict())
