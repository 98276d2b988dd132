"""Whole decode steps on fake CUDA tensors: shapes, dtypes and devices fit, and no step waits.

Fake tensors have no data, so anything that the host wants to know of the device in the middle of a
step raises an error. What it legitimately reads, the report at the end, comes from a decoder on the
CPU that goes through the same steps.
"""

from __future__ import annotations

import copy
import ctypes
import dataclasses
import os
import subprocess
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from oracles.compare import random_prompts
from oracles.every_policy import CASES, config_of, model_of, options_of
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from torch.utils.cpp_extension import include_paths, library_paths

from dlmcache_cuda import _extension
from dlmcache_cuda.decoding import api
from dlmcache_cuda.decoding import decoder as decoder_module
from dlmcache_cuda.decoding.decoder import SlotDecoder
from dlmcache_cuda.decoding.defaults import decode_defaults
from dlmcache_cuda.decoding.orders import draw_orders
from dlmcache_cuda.decoding.regions import Region
from dlmcache_cuda.decoding.step_program import StepProgram
from dlmcache_cuda.model import attention
from dlmcache_cuda.model.head import Head
from dlmcache_cuda.model.linear import PlainLinear
from dlmcache_cuda.policies import make_policy
from dlmcache_cuda.stack import selection

pytestmark = pytest.mark.skipif(
    not _extension.has_cuda(), reason="the extension was built without CUDA operators"
)
# A CPU build of torch refuses to index even a tensor that merely claims to be on a CUDA device.
GUARD = """
#include <c10/core/impl/DeviceGuardImplInterface.h>
C10_REGISTER_GUARD_IMPL(CUDA, c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA>)
"""


@pytest.fixture(scope="module", autouse=True)
def _device_guard(tmp_path_factory):
    if torch.version.cuda is not None:
        return
    source = tmp_path_factory.mktemp("guard") / "guard.cpp"
    source.write_text(GUARD)
    library = source.with_suffix(".so")
    command = [os.environ.get("CXX", "c++"), "-std=c++20", "-shared", "-fPIC", str(source)]
    command += [f"-I{path}" for path in include_paths()]
    command += [f"-L{path}" for path in library_paths()]
    subprocess.run([*command, "-lc10", "-o", str(library)], check=True)
    ctypes.CDLL(str(library))


class NoCopies(TorchDispatchMode):
    """Refuses what would move data between host and device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        # Operators take single numbers of the host as they are; only where() copies them first.
        copied = func is torch.ops.aten.where.self
        involved = tensors((args, kwargs, result))
        devices = {leaf.device.type for leaf in involved if leaf.dim() > 0 or copied}
        assert devices <= {"cuda"}, f"{func} inside a step involves the devices {devices}"
        return result


def tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, Tensor)]


def on_fake_cuda(model: Any, dtype: torch.dtype) -> Any:
    """The model with weights of no content on a device that need not exist."""

    def moved(value: Any) -> Any:
        if isinstance(value, Tensor):
            return torch.empty(value.shape, dtype=dtype, device="cuda")
        if isinstance(value, PlainLinear):
            return PlainLinear(moved(value.weight), moved(value.bias))
        return value

    fake = copy.copy(model)
    for name in ("embedding", "final_norm"):
        setattr(fake, name, moved(getattr(model, name)))
    fake._head = Head(moved(model.head))
    fake.device, fake.dtype = torch.device("cuda:0"), dtype
    fake.layers = []
    for layer in model.layers:
        block = copy.copy(layer)
        fields = [field.name for field in dataclasses.fields(layer.weights)]
        block.weights = dataclasses.replace(
            layer.weights, **{name: moved(getattr(layer.weights, name)) for name in fields}
        )
        fake.layers.append(block)
    table = torch.empty((64, model.config.head_dim), device="cuda")
    fake.cos_sin = lambda capacity: table[:capacity]
    return fake


class Recording(SlotDecoder):
    """Remembers every report."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.reports: list[list[int]] = []

    def _read(self, output: Any) -> list[int]:
        self.reports.append(super()._read(output))
        return self.reports[-1]


class Following(SlotDecoder):
    """Takes its reports from another decoder."""

    reports: list[list[int]]

    def _read(self, output: Any) -> list[int]:
        report = self.reports.pop(0)
        (told,) = output.report
        assert told.shape == (len(report),) and told.dtype == torch.int64
        return report

    def _result(self, place: int, slot: Any, status: Any, reason: str) -> str:
        return reason


def on_the_host(draw):
    """Orders are drawn before a step, of tensors with content."""

    def orders(*args):
        with unset_fake_temporarily():
            draw(*args)

    return orders


def watched(run):
    def program(self):
        with NoCopies():
            return run(self)

    return program


def steps_on_fake_cuda(
    monkeypatch,
    family: str,
    name: str,
    holes: Sequence[int] | None = None,
    embeds: bool = False,
    **given: Any,
) -> int:
    """Decodes two prompts on both devices; returns how many steps went on behind a boundary.

    ``holes``: the places of a region that are masks, the others are given. ``embeds``: prompts have
    embeddings in place of tokens.
    """
    dtype = torch.bfloat16
    monkeypatch.setattr(decoder_module, "reads_nothing", lambda device: True)
    monkeypatch.setattr(attention, "DENSE_FROM", {"cpu": 8, "cuda": 8})
    model, prompts = model_of(family), random_prompts(4, [9, 3])
    policy = make_policy(config_of(name))
    options = decode_defaults() | options_of(name, gen_length=12, block_length=6, **given)
    settings = api.check_settings(model, policy, **options)
    real = Recording(model, policy, settings, num_slots=2, capacity=48, embeds=embeds)

    def stacked(fake: Any, rank: float) -> int:
        rows = min(int(rank), fake.config.n_kv_heads * fake.config.head_dim)
        for layer in fake.layers:
            proxy = torch.empty(rows, fake.config.d_model, dtype=dtype, device="cuda")
            layer.weights = layer.weights.with_proxy(proxy)
        return rows

    mode = FakeTensorMode()
    with mode, monkeypatch.context() as patch:
        patch.setattr(selection, "stack_proxies", stacked)
        fake = Following(
            on_fake_cuda(model, dtype),
            make_policy(config_of(name)),
            dataclasses.replace(settings, cuda_graphs=False),
            num_slots=2,
            capacity=48,
            embeds=embeds,
        )
    fake.reports = real.reports
    waiting = list(range(len(prompts)))
    resumed = steps = 0
    while waiting or not real.idle:
        while waiting and real.has_free_slot:
            sequence = waiting.pop(0)
            prompt = prompts[sequence]
            region = Region.of_masks(len(prompt), 12, model.mask_token_id)
            if holes is not None:
                ids = torch.arange(12)
                ids[list(holes)] = model.mask_token_id
                region = Region.of_ids(len(prompt), ids, model.mask_token_id)
            rows = model.embedding[prompt] if embeds else None
            real.add(sequence, prompt, 3, region=region, prompt_embeds=rows)
            with mode:
                region = dataclasses.replace(region, ids=mode.from_tensor(region.ids))
                rows = mode.from_tensor(rows) if embeds else None
                prompt = mode.from_tensor(prompt)
                fake.add(sequence, prompt, 3, region=region, prompt_embeds=rows)
        ended = real.step()
        resumed += len(real.reports) > 1
        with mode, monkeypatch.context() as patch:
            patch.setattr(StepProgram, "run", watched(StepProgram.run))
            patch.setattr(decoder_module, "draw_orders", on_the_host(draw_orders))
            assert fake.step().keys() == ended.keys()
        steps += 1
    assert steps >= 6 and not real.reports
    assert not fake.exact
    return resumed


@pytest.mark.parametrize(("family", "name"), CASES)
def test_no_step_waits_for_the_device(monkeypatch, family, name):
    resumed = steps_on_fake_cuda(monkeypatch, family, name, temperature=0.5)
    assert (resumed > 0) == (name in ("elastic", "composed"))


@pytest.mark.parametrize("name", ["elastic", "composed"])
def test_twins_of_a_slot_do_not_wait_for_each_other(monkeypatch, name):
    assert steps_on_fake_cuda(monkeypatch, "llada", name, cfg_scale=1.5) > 0


@pytest.mark.parametrize(
    "given",
    [
        {"alg": "origin"},
        {"alg": "entropy", "alg_temp": 0.5, "top_p": 0.9, "temperature": 0.5},
        {"alg": "topk_margin", "top_k": 5},
        {"remasking": "random"},
        {"threshold": 0.9},
        {"factor": 1.0},
        {"cfg_scale": 1.5},
        {"logits_eos_inf": True, "confidence_eos_eot_inf": True},
    ],
    ids=lambda given: next(iter(given.values())) if "alg" in given else next(iter(given)),
)
@pytest.mark.parametrize("family", ["llada", "dream"])
def test_no_way_to_sample_waits_for_the_device(monkeypatch, family, given):
    steps_on_fake_cuda(monkeypatch, family, "dual", **given)


@pytest.mark.parametrize(
    ("family", "name"), [("llada", "dual"), ("llada", "elastic"), ("dream", "dkv-decode")]
)
def test_no_step_of_a_canvas_with_holes_waits_for_the_device(monkeypatch, family, name):
    holes = [0, 1, 2, 5, 7, 8, 10, 11]
    steps_on_fake_cuda(monkeypatch, family, name, holes, cfg_scale=0.0)


@pytest.mark.parametrize("name", ["dual", "elastic"])
def test_no_step_of_an_embedded_prompt_waits_for_the_device(monkeypatch, name):
    steps_on_fake_cuda(monkeypatch, "llada", name, embeds=True, cfg_scale=0.0)
