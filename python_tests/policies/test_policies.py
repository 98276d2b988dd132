"""Policies one by one: registry, configs, and the rows that each plans."""

from __future__ import annotations

import dataclasses
import inspect
import re

import pytest
import torch

from dlmcache_cuda.policies import (
    Frame,
    SlotPlan,
    SlotView,
    StackSpec,
    StepView,
    available_policies,
    make_policy,
    register_policy,
)
from dlmcache_cuda.policies.fast_dllm import DualConfig, PrefixConfig

POLICIES = available_policies()


def view(step_in_block: int, block: int = 0, step: int = 7) -> SlotView:
    return SlotView(
        prompt_length=5,
        length=29,
        block_begin=5 + 8 * block,
        block_end=13 + 8 * block,
        step=step,
        step_in_block=step_in_block,
    )


def step_view(slot: SlotView) -> StepView:
    masked = torch.arange(32) >= slot.prompt_length
    return StepView([slot], masked & (torch.arange(32) < slot.length), torch.tensor([slot.length]))


def test_vanilla_comes_first_and_the_published_names_exist():
    assert list(POLICIES)[0] == "none"
    assert {"none", "prefix", "dual"} <= set(POLICIES)


@pytest.mark.parametrize("name", list(POLICIES))
def test_contract_of_every_policy(name):
    policy = make_policy(name)
    assert policy.name == name
    assert dataclasses.is_dataclass(policy.Config) and policy.Config.__dataclass_params__.frozen
    assert type(make_policy(policy.Config())) is type(policy)
    assert type(policy.exact_config()) is policy.Config
    policy.attach(Frame(1, 1, 32, torch.device("cpu"), n_layers=2, shift=0, end_token_id=0))
    assert isinstance(policy.stack_spec(2), StackSpec)
    policy.enter(0)
    first = policy.plan(step_view(view(0, step=0))).slots[0]
    assert (first.begin, first.end, first.marked, first.sparse) == (0, 29, False, False)


@pytest.mark.parametrize("name", list(POLICIES))
def test_every_setting_is_described_and_checked(name):
    config = POLICIES[name].Config
    described = "".join(inspect.getdoc(base) or "" for base in config.__mro__)
    for field in dataclasses.fields(config):
        assert re.search(rf"\b{field.name}\b", described), f"{name}: {field.name} is not described"
        with pytest.raises(ValueError, match=f"{field.name} must"):
            config(**{field.name: "nonsense"})


def test_vanilla_computes_everything():
    assert make_policy("none").plan_slot(view(3, 1)) == SlotPlan(0, 29, refresh=True)


def test_prefix_leaves_out_what_lies_before_the_block():
    policy = make_policy("prefix")
    assert policy.plan_slot(view(0, 1)) == SlotPlan(0, 29, refresh=True)
    assert policy.plan_slot(view(1, 1)) == SlotPlan(13, 29, refresh=False)


def test_dual_computes_the_block_alone():
    policy = make_policy("dual")
    assert policy.plan_slot(view(0, 1)) == SlotPlan(0, 29, refresh=True)
    assert policy.plan_slot(view(5, 1)) == SlotPlan(13, 21, refresh=False)


@pytest.mark.parametrize("config", [PrefixConfig(refresh_steps=3), DualConfig(refresh_steps=3)])
def test_refresh_steps_counts_within_the_block(config):
    policy = make_policy(config)
    refreshed = [policy.plan_slot(view(step)).refresh for step in range(7)]
    assert refreshed == [True, False, False, True, False, False, True]


@pytest.mark.parametrize("steps", [0, -1, 1.5, "2", True])
def test_refresh_steps_must_be_positive(steps):
    with pytest.raises(ValueError, match=r"refresh_steps must be None or an integer >= 1, got"):
        DualConfig(refresh_steps=steps)


LARGE = {"dual": "refresh_steps", "elastic": "window_length", "composed": "delay_steps",
         "spa": "warmup_steps", "d2": "inflate_w", "dkv-greedy": "window_length"}  # fmt: skip


@pytest.mark.parametrize("name", LARGE)
def test_integers_that_int32_does_not_hold_are_refused(name):
    config = available_policies()[name].Config
    config(**{LARGE[name]: 2**31 - 1})
    with pytest.raises(ValueError, match=f"{LARGE[name]} must be .*an integer < 2\\^31, got 21"):
        config(**{LARGE[name]: 2**31})


def test_spa_needs_a_budget():
    with pytest.raises(ValueError, match="max_update_ratio must be a number in .*, got None"):
        available_policies()["spa"].Config(max_update_ratio=None)


@pytest.mark.parametrize("ratios", [0.5, True, "0.5", b"1"])
@pytest.mark.parametrize("name", ["spa", "composed"])
def test_layer_ratios_that_are_no_list_are_refused(name, ratios):
    with pytest.raises(ValueError, match="layer_ratios must be None or one ratio per layer, got"):
        available_policies()[name].Config(layer_ratios=ratios)


def test_a_choice_that_is_an_array_is_refused():
    with pytest.raises(ValueError, match="similarity must be one of heads, rows, got tensor"):
        available_policies()["elastic"].Config(similarity=torch.ones(3))


def test_unknown_name_lists_and_suggests():
    with pytest.raises(
        ValueError, match=r"cache must be one of none, .*'dula'.*Did you mean 'dual'"
    ):
        make_policy("dula")


def test_foreign_object_is_refused():
    with pytest.raises(TypeError, match="cache must be a name .* got int"):
        make_policy(3)


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match="already registered"):
        register_policy("dual")(type("Again", (), {}))
