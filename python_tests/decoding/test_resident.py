"""Steps that read nothing of the device until they are over, and steps replayed as graphs.

On a CPU steps are exact: they read counts as they go. Here they run as on a GPU, with bounds for
sizes and guessed boundaries, and, captured on the host, as a CUDA graph would replay them. All must
decode the same; exact steps are compared with the oracles elsewhere.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from oracles.canvases import random_region
from oracles.compare import random_prompts
from oracles.every_policy import CASES, assert_same, config_of, model_of, options_of
from oracles.host_graph import HostStepGraphs
from oracles.resident import resident

import dlmcache_cuda
from dlmcache_cuda.policies import available_policies

LENGTHS = [3, 11, 1, 7, 20]
COMMITS = {
    "fixed": {},
    "two-blocks": {"block_length": 12, "steps": 12},
    "threshold": {"threshold": 0.02, "block_length": 8},
    "warm": {"temperature": 0.7},
    "guided": {"cfg_scale": 1.5, "block_length": 12},
}


def commit_options(name: str, commit: str) -> dict[str, Any]:
    options = dict(COMMITS[commit])
    if commit == "threshold" and available_policies()[name].remasking:
        pytest.skip("a fixed number of commits only")
    return options


def assert_same_output(mine, exact, where: str) -> None:
    for i, (a, b) in enumerate(zip(mine.sequences, exact.sequences, strict=True)):
        assert_same(a, b, f"{where}, sequence {i}")


@pytest.mark.parametrize("commit", list(COMMITS))
@pytest.mark.parametrize(("family", "name"), CASES)
def test_steps_that_read_nothing_decode_the_same(family, name, commit):
    model, prompts = model_of(family), random_prompts(2, LENGTHS)
    options = options_of(name, gen_length=24, cache=config_of(name), seed=3)
    options |= commit_options(name, commit)
    exact = dlmcache_cuda.decode(model, prompts, batch_size=3, trace=True, **options)
    with resident():
        mine = dlmcache_cuda.decode(model, prompts, batch_size=3, trace=True, **options)
    assert_same_output(mine, exact, "resident")
    assert mine.stats.forwards == exact.stats.forwards
    for a, b in zip(mine.sequences, exact.sequences, strict=True):
        for step, (t, u) in enumerate(zip(a.trace, b.trace, strict=True)):
            assert t.similarity == pytest.approx(u.similarity, abs=1e-6), f"step {step}"


@pytest.mark.parametrize("commit", list(COMMITS))
@pytest.mark.parametrize(("family", "name"), CASES)
def test_replayed_steps_decode_the_same(family, name, commit):
    """Prompts, lengths and the batch's composition change while graphs are replayed."""
    model, prompts = model_of(family), random_prompts(2, LENGTHS)
    options = options_of(name, gen_length=24, cache=config_of(name), seed=3)
    options |= commit_options(name, commit)
    exact = dlmcache_cuda.decode(model, prompts, batch_size=2, **options)
    HostStepGraphs.captured = HostStepGraphs.replayed = 0
    with resident(graphs=True):
        mine = dlmcache_cuda.decode(model, prompts, batch_size=2, **options)
    for i, (a, b) in enumerate(zip(mine.sequences, exact.sequences, strict=True)):
        assert a.ids.tolist() == b.ids.tolist(), f"sequence {i}"
        assert a.commit_step.tolist() == b.commit_step.tolist(), f"sequence {i}"
        assert (a.forwards, a.rows_computed) == (b.forwards, b.rows_computed), f"sequence {i}"
    if name == "none":
        assert HostStepGraphs.captured == 0
    elif commit == "fixed" and name not in ("prefix", "dual", "dkv-pd"):
        assert HostStepGraphs.replayed > HostStepGraphs.captured > 0


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize(("family", "name"), CASES)
def test_canvases_with_given_text_decode_the_same(family, name, graphs):
    model = model_of(family)
    mask, ends = model.mask_token_id, tuple(model.end_token_ids)
    canvases = [
        torch.cat([prompt, torch.tensor(random_region(i, 10 + 6 * i, 0.4, mask, ends))])
        for i, prompt in enumerate(random_prompts(2, LENGTHS))
    ]
    options = {"remasking": "low_confidence", "block_length": 12, "batch_size": 2, "seed": 3}
    options = options_of(name, canvas=canvases, cache=config_of(name), **options)
    exact = dlmcache_cuda.decode(model, **options)
    with resident(graphs):
        mine = dlmcache_cuda.decode(model, **options)
    for i, (a, b) in enumerate(zip(mine.sequences, exact.sequences, strict=True)):
        assert a.ids.tolist() == b.ids.tolist(), f"sequence {i}"
        assert a.commit_step.tolist() == b.commit_step.tolist(), f"sequence {i}"
        assert (a.forwards, a.rows_computed) == (b.forwards, b.rows_computed), f"sequence {i}"


@pytest.mark.parametrize("name", ["dual", "elastic", "spa", "dkv-decode"])
def test_replayed_steps_read_the_embeddings_of_whoever_is_in_the_slot(name):
    model, options = model_of("llada"), {"gen_length": 12, "seed": 3, "batch_size": 1}
    rows = [model.embedding[p] + 0.3 for p in random_prompts(2, LENGTHS)]
    options |= options_of(name, cache=config_of(name), prompt_embeds=rows)
    exact = dlmcache_cuda.decode(model, **options)
    with resident(graphs=True):
        mine = dlmcache_cuda.decode(model, **options)
    assert [ids.tolist() for ids in mine.ids] == [ids.tolist() for ids in exact.ids]


@pytest.mark.parametrize("name", ["dual", "spa"])
def test_a_drawn_order_of_few_positions_fits_into_the_control_block(name):
    options = {"gen_length": 8, "cache": config_of(name), "seed": 3, "remasking": "random_order"}
    prompts = random_prompts(2, [5])
    exact = dlmcache_cuda.decode(model_of("llada"), prompts, **options)
    with resident(graphs=True):
        mine = dlmcache_cuda.decode(model_of("llada"), prompts, **options)
    assert mine.ids[0].tolist() == exact.ids[0].tolist()


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(
    data=st.data(),
    case=st.sampled_from(CASES),
    lengths=st.lists(st.integers(1, 14), min_size=1, max_size=4),
)
def test_random_settings_decode_the_same(data, case, lengths):
    family, name = case
    model = model_of(family)
    block = data.draw(st.sampled_from([None, 6, 12]), "block_length")
    options = options_of(name, gen_length=24, block_length=block, cache=config_of(name), seed=5)
    options["steps"] = data.draw(st.sampled_from([24, 12]), "steps")
    options["temperature"] = data.draw(st.sampled_from([0.0, 1.0]), "temperature")
    prompts = random_prompts(data.draw(st.integers(0, 99), "prompts"), lengths)
    batch_size = data.draw(st.integers(1, 4), "batch_size")
    exact = dlmcache_cuda.decode(model, prompts, batch_size=batch_size, **options)
    for graphs in (False, True):
        with resident(graphs):
            mine = dlmcache_cuda.decode(model, prompts, batch_size=batch_size, **options)
        for a, b in zip(mine.sequences, exact.sequences, strict=True):
            assert a.ids.tolist() == b.ids.tolist()
            assert a.commit_step.tolist() == b.commit_step.tolist()
            assert a.rows_computed == b.rows_computed
