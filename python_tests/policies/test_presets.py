"""Presets: the published values, and that decode takes them."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

import dlmcache_cuda
from dlmcache_cuda import presets
from dlmcache_cuda.assets.questions import make_questions
from dlmcache_cuda.decoding.arguments import check_settings
from dlmcache_cuda.policies import available_policies, make_policy
from dlmcache_cuda.policies.layer_budget import split_gaussian
from dlmcache_cuda.policies.presets import MODELS, TASKS, preset_tasks
from dlmcache_cuda.policies.spa import SpaConfig
from dlmcache_cuda.testing.tiny_model import random_model

CASES = [
    (model, task, policy)
    for model in MODELS
    if model != "tiny_llada"
    for task in (None, *TASKS)
    for policy in presets(model, task)
]


def test_spa_on_llada():
    def row(task):
        preset = presets("LLaDA-8B-Instruct", task)["spa"]
        config = preset.config
        assert (config.proxy_rank, config.max_update_ratio, config.warmup_steps) == (128, 0.25, 0)
        curve = (config.peak, config.first_ratio, config.peak_ratio, config.last_ratio)
        assert curve == (0.75, 0.03, 0.25, 0.13)
        assert config.early_stop_steps == preset.block_length
        assert preset.steps == preset.gen_length and preset.threshold is None
        return (
            preset.shots, preset.gen_length, preset.block_length, config.refresh_steps,
            config.refresh_gen_steps, config.min_update_ratio,
        )  # fmt: skip

    assert {task: row(task) for task in TASKS if task != "mmlu"} == {
        "gsm8k": (4, 256, 8, 50, 7, 0.0625),
        "math": (4, 256, 32, 50, 2, 0.0625),
        "gpqa": (5, 128, 64, 50, 6, 0.0625),
        "bbh": (3, 256, 256, 50, 6, 0.0625),
        "mmlu_pro": (5, 256, 256, 50, 3, 0.125),
        "mbpp": (3, 512, 32, 25, 4, 0.0625),
        "humaneval": (0, 512, 32, 50, 8, 0.2),
    }


def test_spa_on_dream():
    def row(task):
        preset = presets("Dream-v0-Instruct-7B", task)["spa"]
        config = preset.config
        assert (config.proxy_rank, config.max_update_ratio, config.warmup_steps) == (32, 0.25, 1)
        curve = (config.peak, config.first_ratio, config.peak_ratio, config.last_ratio)
        assert curve == (0.5, 0.05, 0.3, 0.25)
        arguments = preset.arguments()
        assert arguments.pop("cache") is config and config.early_stop_steps == 1
        assert arguments == {
            "gen_length": 256, "steps": 256, "temperature": 0.2, "top_p": 0.95, "alg": "entropy",
            "min_commit": 1,
        }  # fmt: skip
        return (
            preset.shots, config.refresh_steps, config.refresh_gen_steps, config.min_update_ratio,
        )  # fmt: skip

    assert {task: row(task) for task in TASKS if task != "mmlu"} == {
        "gsm8k": (8, 25, 2, 0.125),
        "math": (4, 50, 1, 0.0625),
        "gpqa": (5, 16, 1, 0.2),
        "bbh": (3, 32, 2, 0.0625),
        "mmlu_pro": (5, 16, 4, 0.0625),
        "mbpp": (3, 8, 3, 0.125),
        "humaneval": (0, 50, 3, 0.0625),
    }


@pytest.mark.parametrize(
    "model, layers, floor, mean",
    [
        ("LLaDA-8B-Instruct", 32, 1 / 16, 0.162),
        ("LLaDA-1.5", 32, 1 / 16, 0.159),
        ("Dream-v0-Instruct-7B", 28, 1 / 16, 0.194),
        ("LLaDA-8B-Instruct", 32, 0.2, 0.210),
        ("Dream-v0-Instruct-7B", 28, 0.2, 0.223),
    ],
)
def test_budgets_have_the_published_means(model, layers, floor, mean):
    config = presets(model)["spa"].config
    curve = ("peak", "first_ratio", "peak_ratio", "last_ratio", "max_update_ratio")
    ratios = split_gaussian(
        layers, **{name: getattr(config, name) for name in curve}, min_update_ratio=floor
    )
    assert sum(ratios) / layers == pytest.approx(mean, abs=6e-4)


def test_vanilla_settings_of_llada():
    def row(model, task):
        preset = presets(model, task)["none"]
        assert preset.steps == preset.gen_length
        return (
            preset.gen_length, preset.block_length, preset.logits_eos_inf,
            preset.confidence_eos_eot_inf,
        )  # fmt: skip

    assert row("LLaDA-8B-Instruct", "gsm8k") == (256, 8, False, False)
    assert row("LLaDA-8B-Instruct", "math") == (512, 64, False, False)
    assert row("LLaDA-8B-Instruct", "humaneval") == (512, 512, True, False)
    assert row("LLaDA-8B-Instruct", "mbpp") == (256, 256, False, True)
    assert row("LLaDA-8B-Instruct", "mmlu_pro") == (256, 256, False, False)
    assert row("LLaDA-8B-Instruct", "gpqa") == (64, 64, False, True)
    assert row("LLaDA-1.5", "gsm8k") == (256, 16, False, True)
    assert row("LLaDA-1.5", "math") == (1024, 128, False, True)
    assert row("LLaDA-1.5", "humaneval") == row("LLaDA-1.5", "mbpp") == (512, 32, False, True)
    assert row("LLaDA-8B-Base", "gsm8k") == (512, 512, None, None)


def test_dkv_cache():
    def row(model, task, policy):
        preset = presets(model, task)[policy]
        return (
            preset.gen_length,
            preset.steps,
            preset.block_length,
            *dataclasses.astuple(preset.config),
        )

    lengths = {
        "mmlu": (32, 32, 16),
        "gsm8k": (256, 256, 32),
        "math": (256, 256, 64),
        "gpqa": (128, 128, 64),
        "humaneval": (512, 512, 32),
        "mbpp": (512, 512, 32),
    }
    for task, length in lengths.items():
        assert row("LLaDA-8B-Instruct", task, "dkv-decode") == (*length, 8, "un")
        window = 2 if task == "mbpp" else 4
        assert row("LLaDA-8B-Instruct", task, "dkv-greedy") == (*length, 2, window, "next")
    for task, length in {"gsm8k": 256, "mbpp": 512, "humaneval": 512}.items():
        dream = length, length, None
        assert row("Dream-v0-Base-7B", task, "dkv-decode") == (*dream, 4, "un")
        assert row("Dream-v0-Base-7B", task, "dkv-prefill") == (*dream, None)
        assert row("Dream-v0-Base-7B", task, "dkv-pd") == (*dream, 4, "un", None)
    assert row("Dream-v0-Base-7B", "mmlu", "dkv-decode") == (8, 8, None, 4, "un")
    assert row("Dream-v0-Base-7B", "gpqa", "dkv-prefill") == (128, 128, None, None)


def test_dllm_cache():
    table = {
        "gsm8k": ((25, 5), (50, 7), (100, 8), (25, 2)),
        "humaneval": ((50, 5), (25, 5), (5, 1), (50, 1)),
        "math": ((50, 8), (50, 1), (100, 4), (50, 1)),
        "mbpp": ((25, 4), (100, 5), (25, 8), (10, 8)),
        "gpqa": ((100, 8), (50, 6), (100, 8), (10, 8)),
        "mmlu_pro": ((100, 6), (50, 3), (25, 2), (5, 1)),
        "bbh": ((50, 4),) * 4,
        None: ((50, 4),) * 4,
    }
    models = "LLaDA-8B-Base", "LLaDA-8B-Instruct", "Dream-v0-Base-7B", "Dream-v0-Instruct-7B"
    for task, pairs in table.items():
        for model, pair in zip(models, pairs, strict=True):
            config = presets(model, task)["dllm"].config
            assert (config.prompt_interval_steps, config.gen_interval_steps) == pair
            assert config.transfer_ratio == 0.25
    assert "dllm" not in presets("LLaDA-1.5", "gsm8k")


@pytest.mark.parametrize("policy", ["prefix", "dual"])
@pytest.mark.parametrize("model", ["LLaDA-8B-Instruct", "Dream-v0-Base-7B"])
def test_fast_dllm(model, policy):
    preset = presets(model, "gsm8k")[policy]
    assert preset.decode_arguments() == {"gen_length": 256, "block_length": 32, "threshold": 0.9}
    assert preset.shots == 5 and preset.config == available_policies()[policy].Config()


def test_elastic_cache():
    for model in ("LLaDA-8B-Instruct", "LLaDA-1.5"):
        for task, shots in {"gsm8k": 5, "math": 4, "humaneval": 0, "mbpp": 3}.items():
            preset = presets(model, task)["elastic"]
            assert (preset.config.window_length, preset.config.gamma) == (16, 0.9)
            assert preset.decode_arguments() == {"gen_length": 512, "threshold": 0.9}
            assert preset.shots == shots
    for task, expected in {"gsm8k": (32, 0.9), "humaneval": (16, 0.98)}.items():
        config = presets("Dream-v0-Base-7B", task)["elastic"].config
        assert (config.window_length, config.gamma) == expected
    assert "elastic" not in presets("Dream-v0-Base-7B", "mbpp")


def test_the_bundled_model_has_every_policy_in_its_measure():
    fitted = presets("tiny_llada")
    assert set(fitted) == set(available_policies())
    question = make_questions(1, seed=4)[0]
    chat = [{"role": "user", "content": question.prompt}]
    out = dlmcache_cuda.decode(dlmcache_cuda.load(), chat, **fitted["elastic"].arguments())
    assert out.text == [question.answer]


def test_d2_cache_has_one_setting_for_all_tasks():
    assert presets("LLaDA-8B-Base", "bbh")["d2"] == presets("LLaDA-8B-Base")["d2"]


def test_what_was_not_published_is_absent():
    assert "composed" not in {policy for _, _, policy in CASES}
    assert "spa" not in presets("LLaDA-8B-Base", "gsm8k")
    assert "dkv-pd" not in presets("LLaDA-8B-Instruct", "gsm8k")
    assert "dkv-greedy" not in presets("Dream-v0-Base-7B", "gsm8k")


def test_no_preset_of_a_llada_sets_what_belongs_to_dream():
    for model, task, policy in CASES:
        if model.startswith("LLaDA"):
            arguments = presets(model, task)[policy].arguments()
            assert not {"alg", "top_p", "temperature", "min_commit"} & set(arguments)


@pytest.fixture(scope="module")
def tiny_models():
    return {
        "LLaDA": random_model(1, max_sequence_length=2048),
        "Dream": random_model(1, model_type="Dream", max_position_embeddings=2048),
    }


@pytest.mark.parametrize("model, task, policy", CASES)
def test_decode_takes_the_arguments(model, task, policy, tiny_models):
    preset = presets(model, task)[policy]
    assert preset.source and type(preset.config) is available_policies()[policy].Config
    arguments = preset.arguments()
    assert arguments["cache"] is preset.config
    parameters = inspect.signature(dlmcache_cuda.decode).parameters
    unknown = set(arguments) - set(parameters)
    if unknown <= {"alg", "top_p", "min_commit"} and unknown:
        pytest.skip(f"decode has no {', '.join(sorted(unknown))}")
    settings = {
        name: parameter.default
        for name, parameter in parameters.items()
        if name in inspect.signature(check_settings).parameters
    } | arguments
    checked = make_policy(settings.pop("cache"))
    checked.stack_spec(32)
    del settings["model"]
    check_settings(tiny_models[model[:5]], checked, **settings)


def test_a_preset_decodes(tiny_models):
    preset = presets("LLaDA-8B-Instruct", "gpqa")["spa"]
    small = dataclasses.replace(preset, gen_length=8, block_length=4, steps=8)
    out = dlmcache_cuda.decode(tiny_models["LLaDA"], [[3, 5, 7]], **small.arguments())
    assert out.sequences[0].ids.numel() == 8


@pytest.mark.parametrize(
    "name",
    ["GSAI-ML/LLaDA-8B-Instruct", "llada-8b-instruct", "models/LLaDA-8B-INSTRUCT/"],
)
def test_models_have_many_spellings(name):
    assert presets(name, "gsm8k") == presets("LLaDA-8B-Instruct", "gsm8k")


@pytest.mark.parametrize(
    "name, task",
    [("GSM8K", "gsm8k"), ("gsm8k_cot", "gsm8k"), ("minerva_math", "math"), ("MATH-500", "math"),
     ("MMLU-Pro", "mmlu_pro"), ("HumanEval", "humaneval")],
)  # fmt: skip
def test_tasks_have_many_spellings(name, task):
    assert presets("LLaDA-8B-Instruct", name) == presets("LLaDA-8B-Instruct", task)


def test_unknown_names_are_refused_with_what_exists():
    with pytest.raises(ValueError, match="one of LLaDA-8B-Base, .*Did you mean 'LLaDA-8B-Instr"):
        presets("LLaDA-8B-Instuct")
    with pytest.raises(ValueError, match=r"model_name must be one of .* got 'gpt2'\.$"):
        presets("gpt2")
    with pytest.raises(ValueError, match="task must be one of gsm8k, .* Did you mean 'gsm8k'"):
        presets("LLaDA-1.5", "gsm9k")
    with pytest.raises(TypeError, match="model_name must be a string"):
        presets(7)


def test_tasks_of_a_model():
    assert preset_tasks("LLaDA-8B-Instruct") == TASKS
    assert preset_tasks("LLaDA-1.5") == ("gsm8k", "math", "humaneval", "mbpp")


def test_presets_are_frozen():
    preset = presets("LLaDA-8B-Instruct", "gsm8k")["spa"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        preset.gen_length = 3
    assert isinstance(preset.config, SpaConfig)
