"""What users ask for becomes the rows they meant, or an error that names the argument."""

from __future__ import annotations

import json

import pytest

from dlmcache_cuda.benchmark.fixed_rate import fixed_rate
from dlmcache_cuda.benchmark.matrix import Commit, Matrix
from dlmcache_cuda.benchmark.models import BUNDLED, DEFAULT_VOCAB, ModelSpec
from dlmcache_cuda.benchmark.policies import PolicySetting, parse_policies
from dlmcache_cuda.benchmark.row import STOCK, Row
from dlmcache_cuda.benchmark.suites import SUITES, Size
from dlmcache_cuda.policies import available_policies

RANDOM = ModelSpec.parse("random:12x512")
POLICIES = [name for name in available_policies() if name != "none"]


def test_random_models():
    assert (RANDOM.layers, RANDOM.width, RANDOM.vocab) == (12, 512, DEFAULT_VOCAB)
    assert ModelSpec.parse("random:2x64:vocab=96").vocab == 96
    assert not ModelSpec.parse("GSAI-ML/LLaDA-8B-Instruct").is_random


@pytest.mark.parametrize(
    "text", ["random", "random:12", "random:0x64", "random:2x65", "random:x", "random:1x64:vocab=0"]
)
def test_wrong_random_models(text):
    with pytest.raises(ValueError, match="model must be random:LAYERSxWIDTH"):
        ModelSpec.parse(text)


def test_a_random_model_ends_no_text_and_predicts_no_mask(model):
    assert tuple(model.end_token_ids) == ()
    assert float(model.head[model.mask_token_id].abs().max()) == 0
    assert model.config.head_dim == 64


def test_names_mean_presets_fixed_rates_or_what_was_published():
    (bundled,) = parse_policies(["elastic"], ModelSpec(BUNDLED), 96)
    assert bundled == PolicySetting("elastic", {"window_length": 6}, None)
    (random,) = parse_policies(["elastic"], RANDOM, 256)
    assert random.settings == fixed_rate("elastic", 1)
    assert random.config.refresh_steps == 18 and random.config.gamma == -1
    (several,) = parse_policies(["elastic"], RANDOM, 256, commits=4)
    assert several.config.refresh_steps == 10
    (published,) = parse_policies(["spa"], ModelSpec("models/LLaDA-1.5"), 256)
    assert published.settings == {"peak": 0.8}


def test_other_forms_of_policies(tmp_path):
    task, plain = parse_policies(
        ["spa@LLaDA-8B-Instruct/math", "spa@GSAI-ML/LLaDA-1.5"], RANDOM, 256
    )
    assert task.config.refresh_gen_steps == 2 and task.block_length == 32
    assert plain.config.peak == 0.8
    listed = tmp_path / "policies.json"
    listed.write_text(json.dumps([{"cache": "dual", "block_length": 16}, {"cache": "d2"}]))
    text = '{"cache": "spa", "layer_ratios": [0.5, 0.25], "block_length": 32}'
    assert parse_policies([text, str(listed)], RANDOM, 64) == [
        PolicySetting("spa", {"layer_ratios": (0.5, 0.25)}, 32),
        PolicySetting("dual", {}, 16),
        PolicySetting("d2", {}, None),
    ]
    assert [s.cache for s in parse_policies(["all", "dual"], RANDOM, 64)] == POLICIES


@pytest.mark.parametrize(
    "text, said",
    [
        ("dul", "Did you mean 'dual'"),
        ("{}", "policies must be a name"),
        ("{", "not JSON"),
        ('{"cache": "dual", "gama": 1}', "a setting of 'dual'"),
        ('{"cache": "dual", "block_length": 0}', "block_length must be"),
        ('{"cache": "dual", "block_length": 3}', r"block_length must divide gen_length \(64\)"),
        ("d2@LLaDA-1.5", "nothing was published for 'd2'"),
    ],
)
def test_wrong_policies(text, said):
    with pytest.raises(ValueError, match=said):
        parse_policies([text], RANDOM, 64)


@pytest.mark.parametrize(
    "text, tokens, threshold",
    [("1", 1, None), ("4", 4, None), ("0.9", None, 0.9), ("threshold:1", None, 1.0)],
)
def test_commits(text, tokens, threshold):
    assert Commit.parse(text) == Commit(tokens, threshold)


@pytest.mark.parametrize("text", ["0", "1.5", "x", "threshold:x", "-1", "0.0"])
def test_wrong_commits(text):
    with pytest.raises(ValueError, match="commits must be tokens per step"):
        Commit.parse(text)


def test_a_matrix_has_every_combination_beside_vanilla_and_stock():
    matrix = Matrix(
        [BUNDLED, "random:2x64"], ["dual", "dkv-greedy"], batch_sizes=(1, 4), gen_lengths=(32, 64)
    )
    rows = matrix.rows()
    workloads = list(dict.fromkeys(row.workload for row in rows))
    assert len(workloads) == 8
    for workload in workloads:
        mine = [(row.engine, row.cache, row.commit) for row in rows if row.workload == workload]
        # An order of its own and a threshold exclude each other.
        expected = [
            ("dlmcache", "none", "1 per step"),
            (STOCK, "none", "1 per step"),
            ("dlmcache", "dual", "1 per step"),
            ("dlmcache", "dkv-greedy", "1 per step"),
        ]
        if workload.model == BUNDLED:
            expected += [
                ("dlmcache", "none", "threshold 0.9"),
                (STOCK, "none", "threshold 0.9"),
                ("dlmcache", "dual", "threshold 0.9"),
            ]
        assert mine == expected
    assert len({row.key for row in rows}) == len(rows)
    assert not any(w.early_stop for w in workloads if w.model != BUNDLED)


@pytest.mark.parametrize(
    "given, said",
    [
        ({"models": ["random:2x64"], "commits": ["0.9"]}, "no confidences that mean anything"),
        ({"models": [BUNDLED], "prompt_lengths": [8]}, "--prompt-lengths goes with random"),
        ({"models": ["random:2x64"], "prompts": "questions"}, "those of the bundled model"),
        ({"models": [BUNDLED], "block_length": 7}, "--block-length must divide"),
        ({"models": [BUNDLED], "commits": ["3"], "block_length": 32}, "must divide the block"),
    ],
)
def test_what_cannot_be_combined(given, said):
    with pytest.raises(ValueError, match=said):
        Matrix(**{"policies": ["dual"]} | given).rows()


def test_a_row_survives_json():
    row = Matrix([BUNDLED], ["spa"]).rows()[2]
    again = Row.from_dict(json.loads(json.dumps(row.to_dict())))
    assert again == row and again.key == row.key


def test_suites_measure_what_the_targets_ask_for():
    suites = {name: make(Size()) for name, make in SUITES.items()}
    speed = {
        (r.workload.prompt_length, r.workload.gen_length, r.cache) for r in suites["speed"].rows
    }
    assert {c for p, g, c in speed if (p, g) == (768, 256)} == {
        "none", "dual", "elastic", "spa", "dkv-decode", "dkv-greedy",
    }  # fmt: skip
    assert {c for p, g, c in speed if (p, g) == (512, 512)} == {"none", "dual", "elastic"}
    for row in suites["speed"].rows:
        assert row.commits == 1 and not row.workload.early_stop and row.limit is None
    assert {r.workload.sequences for r in suites["quality"].rows} == {500}
    assert {r.cache for r in suites["quality"].rows} == set(available_policies())
    for name in ("batch", "memory"):
        assert {r.cache for r in suites[name].rows} == set(available_policies()), name
    batches = {r.workload.batch_size for r in suites["stock"].rows if r.engine == STOCK}
    assert batches == {1, 8}
    for suite in suites.values():
        assert len({row.key for row in suite.rows}) == len(suite.rows)
