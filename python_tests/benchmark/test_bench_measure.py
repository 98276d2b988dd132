"""Measured decodings give the tokens and counts of decode(); stock transformers gives the same."""

from __future__ import annotations

import dataclasses

import pytest

import dlmcache_cuda
from dlmcache_cuda.benchmark.measure import decode_arguments, digest, find_drifted, measure
from dlmcache_cuda.benchmark.models import BUNDLED, ModelSpec
from dlmcache_cuda.benchmark.policies import PolicySetting, parse_policies
from dlmcache_cuda.benchmark.profile import profile_row
from dlmcache_cuda.benchmark.prompts import make_prompts
from dlmcache_cuda.benchmark.row import STOCK, Row, Workload
from dlmcache_cuda.benchmark.runner import Subject


def every_row(workload: Workload) -> list[Row]:
    spec = ModelSpec.parse(workload.model)
    settings = [PolicySetting("none"), *parse_policies(["all"], spec, workload.gen_length)]
    return [Row(workload, s.cache, s.settings, 8) for s in settings]


def test_every_policy_decodes_as_decode_does(model, workload):
    prompts = make_prompts(model, workload)
    assert len({ids.numel() for ids in prompts.ids}) == 2, "ragged"
    for row in every_row(workload):
        found = measure(model, row, prompts)
        expected = dlmcache_cuda.decode(
            model, prompts.ids, seed=workload.seed, batch_size=2, **decode_arguments(row)
        )
        assert found.digests == [digest(s.visible_ids) for s in expected.sequences], row
        stats = expected.stats
        counts = (found.forwards, found.rows_computed, found.rows_vanilla, found.visible_tokens)
        assert counts == (
            stats.forwards, stats.rows_computed, stats.rows_vanilla, stats.visible_tokens
        ), row  # fmt: skip
        assert 0 < sum(found.step_seconds) <= found.seconds
        assert found.cpu_seconds > 0


def test_refreshes_are_those_of_the_schedule(model, workload):
    workload = dataclasses.replace(workload, sequences=1, batch_size=1)
    row = Row(workload, "dual", {}, 8)
    found = measure(model, row, make_prompts(model, workload))
    assert found.refreshed == [number % 8 == 0 for number in range(16)]


def test_refreshes_by_drift_are_found():
    workload = Workload(BUNDLED, "questions", 1, 1, 32)
    model = ModelSpec(BUNDLED).load(None, "cpu")
    prompts = make_prompts(model, workload)
    often = Row(workload, "elastic", {"gamma": 1.0})
    never = Row(workload, "elastic", {"gamma": -1.0})
    drifted = find_drifted(model, often, prompts)
    assert len(drifted) > 1
    assert find_drifted(model, never, prompts) == set()
    found = measure(model, often, prompts, drifted=drifted)
    assert {n for n, yes in enumerate(found.refreshed) if yes} >= drifted


@pytest.mark.parametrize("batch_size", [1, 2])
@pytest.mark.parametrize("commits, threshold", [(1, None), (4, None), (None, 0.02)])
def test_stock_transformers_gives_the_tokens_of_vanilla(
    out, workload, batch_size, commits, threshold
):
    workload = dataclasses.replace(workload, batch_size=batch_size)
    vanilla = Row(workload, block_length=8, commits=commits, threshold=threshold)
    stock = dataclasses.replace(vanilla, engine=STOCK)
    subject = Subject(ModelSpec.parse(workload.model), out, "cpu", None, with_stock=True)
    prompts = make_prompts(subject.model, workload)
    ours, theirs = subject.measure(vanilla, prompts), subject.measure(stock, prompts)
    assert theirs.digests == ours.digests
    assert len(set(ours.digests)) == 2
    if threshold is None:
        assert theirs.rows_computed == ours.rows_computed
        assert theirs.sequence_forwards == ours.sequence_forwards


def test_stock_answers_and_stops_with_the_text(out):
    workload = Workload(BUNDLED, "questions", 1, 1, 96, seed=3)
    subject = Subject(ModelSpec(BUNDLED), out, "cpu", None, with_stock=True)
    prompts = make_prompts(subject.model, workload)
    row = Row(workload, block_length=32, commits=4)
    ours = subject.measure(row, prompts)
    theirs = subject.measure(dataclasses.replace(row, engine=STOCK), prompts)
    assert theirs.digests == ours.digests and theirs.forwards == ours.forwards < 24
    assert ours.record(prompts)["right"] == theirs.record(prompts)["right"]


def test_a_limit_ends_the_decoding_and_says_what_it_did(model, workload):
    prompts = make_prompts(model, workload)
    found = measure(model, Row(workload, block_length=8), prompts, limit=3)
    assert (found.forwards, found.sequence_forwards, found.digests) == (3, 6, [])
    lengths = sum(ids.numel() + workload.gen_length for ids in prompts.ids)
    assert found.rows_computed == found.rows_vanilla == 3 * 2 * lengths


def test_a_profile_names_operators_and_phases(model, workload):
    row = Row(workload, "dual", {}, 8)
    profile = profile_row(model, row, make_prompts(model, workload), forwards=16)
    cached, refresh = profile.steps
    assert (cached.kind, cached.steps, refresh.kind, refresh.steps) == ("cached", 14, "refresh", 2)
    assert 0 < cached.operators < 1
    assert 0 < cached.most_operators <= 1
    assert cached.plain_milliseconds > 0
    assert sum(share.share for share in cached.shares) < 1
    assert any(share.kind == "operator" for share in cached.shares)
    assert set(profile.phases) >= {"network", "head", "commit"}
    assert sum(profile.phases.values()) <= profile.forward_milliseconds * 1.05
