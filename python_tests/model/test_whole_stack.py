"""All layers by one operator: the same bits as block by block, and when it is taken."""

from __future__ import annotations

import weakref

import pytest
import torch

import dlmcache_cuda
from dlmcache_cuda.cache import RowList
from dlmcache_cuda.model import attention, packed, whole_stack
from dlmcache_cuda.model.attention import KeyLengths
from dlmcache_cuda.model.packed import PackedLinear
from dlmcache_cuda.model.proxy import stack_proxies
from dlmcache_cuda.model.weights import BlockWeights
from dlmcache_cuda.model.whole_stack import WholeStack
from dlmcache_cuda.testing.tiny_model import random_model

CAPACITY, LENGTHS = 40, [33, 21]


@pytest.fixture(autouse=True)
def _directions_in_a_folder_of_their_own(monkeypatch, tmp_path):
    monkeypatch.setenv("DLMCACHE_CACHE_DIR", str(tmp_path))


@pytest.fixture
def taken(monkeypatch) -> list[bool]:
    """What :meth:`WholeStack.takes` answered."""
    answers: list[bool] = []
    usual = WholeStack.takes

    def takes(self, *arguments) -> bool:
        answers.append(usual(self, *arguments))
        return answers[-1]

    monkeypatch.setattr(WholeStack, "takes", takes)
    return answers


def passes(model) -> list[torch.Tensor]:
    """A refresh, a step of few rows, and what they leave in the cache."""
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(2, 60, (len(LENGTHS) * CAPACITY,), generator=generator)
    cache = model.new_cache(len(LENGTHS), CAPACITY)
    lengths = torch.tensor(LENGTHS)
    found = []
    for begin, end in (([0, 0], LENGTHS), ([7, 3], [12, 3]), ([0, 5], [1, 20])):
        rows = RowList.from_ranges(begin, end, CAPACITY)
        found.append(model.forward_rows(tokens, rows, cache, lengths, LENGTHS))
    return [*found, *cache.whole]


FAMILIES = {
    "bundled": lambda: dlmcache_cuda.load(device="cpu"),
    "grouped": lambda: random_model(3, device="cpu", d_model=64, n_heads=4, n_kv_heads=2),
    "biased": lambda: random_model(4, device="cpu", model_type="Dream"),
}


@pytest.fixture(params=["plain", "packed", "some-packed"])
def storage(request, monkeypatch) -> None:
    """How the matrices of models that are made then are stored."""
    if request.param != "plain":
        if not packed.packs("cpu", torch.float32):
            pytest.skip("this torch cannot pack matrices (no oneDNN)")
        # Inner widths are larger than others.
        monkeypatch.setattr(packed, "_PACKED_FROM", 1 if request.param == "packed" else 5000)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_bits_of_the_blocks(family, monkeypatch, taken, storage):
    model = FAMILIES[family]()
    whole = passes(model)
    assert taken == [True] * 3
    monkeypatch.setattr(WholeStack, "takes", lambda *_: False)
    for a, b in zip(whole, passes(model), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("family", FAMILIES)
def test_divided_projections_change_nothing(family, taken, storage):
    """Others than the operator may divide them, of some layers alone."""
    model = FAMILIES[family]()
    before = passes(model)
    qkv = model.layers[-1].weights.qkv
    width = model.config.n_heads * model.config.head_dim
    for first, last in ((0, width), (16, 40)):
        qkv(torch.randn(3, model.config.d_model), first, last)
        for a, b in zip(before, passes(model), strict=True):
            torch.testing.assert_close(a, b)
        stored = [part.weight for layer in model.layers for part in layer.weights.qkv.stored]
        given = model.whole_stack._tensors().weights
        for weight in stored:
            assert not weight.is_mkldnn or any(weight is other for other in given)
    assert taken == [True] * 9


def count_alive(monkeypatch, model, owner: type, method: str) -> list[int]:
    """How many of the projections of now are still in memory at every call of a method."""
    before = [weakref.ref(layer.weights.qkv.stored[0].weight) for layer in model.layers]
    alive: list[int] = []
    usual = getattr(owner, method)

    def count(*arguments):
        alive.append(sum(weight() is not None for weight in before))
        return usual(*arguments)

    monkeypatch.setattr(owner, method, count)
    return alive


def test_layers_are_divided_one_after_the_other(monkeypatch):
    """Of one layer alone both the whole projections and their parts are in memory."""
    if not packed.packs("cpu", torch.float32):
        pytest.skip("this torch cannot pack matrices (no oneDNN)")
    monkeypatch.setattr(packed, "_PACKED_FROM", 1)
    model = random_model(3, device="cpu", n_layers=5)
    stack = model.whole_stack
    stack._tensors()
    alive = count_alive(monkeypatch, model, PackedLinear, "cut")
    stack._tensors(model.config.d_model)
    assert alive == [5, 4, 3, 2, 1]
    stack._tensors(model.config.d_model)
    assert len(alive) == 5


def test_layers_get_their_proxies_one_after_the_other(monkeypatch, storage):
    model = random_model(3, device="cpu", n_layers=5)
    passes(model)
    alive = count_alive(monkeypatch, model, BlockWeights, "with_proxy")
    stack_proxies(model, 4)
    assert alive == [5, 4, 3, 2, 1]


@pytest.mark.parametrize("family", FAMILIES)
def test_proxies_below_the_projections_change_nothing(family, taken, storage):
    model = FAMILIES[family]()
    before = passes(model)
    stack_proxies(model, 4)
    for a, b in zip(before, passes(model), strict=True):
        assert torch.equal(a, b)
    assert taken == [True] * 6


def takes(model, rows: int = 5, shared: bool = False, slots: int = 1) -> bool:
    capacity = 1100
    cache = model.new_cache(slots, capacity, shared=shared)
    listed = RowList.from_ranges([0] * slots, [rows] * slots, capacity)
    lengths = KeyLengths(torch.tensor([1000] * slots), (1000,) * slots)
    return model.whole_stack.takes(listed, cache, lengths)


def test_when_it_is_taken(monkeypatch):
    config = {"device": "cpu", "d_model": 64, "n_heads": 4, "n_kv_heads": 4}
    model = random_model(3, **config)
    assert takes(model)
    assert not takes(model, shared=True)
    assert takes(model, rows=512, slots=2) and not takes(model, rows=513, slots=2)
    assert takes(model, rows=1000)
    monkeypatch.setitem(attention.DENSE_FROM, "cpu", 1000)
    assert not takes(model, rows=1000) and takes(model, rows=999)
    monkeypatch.setattr(whole_stack, "_LARGEST", 64 * 64)
    assert not takes(random_model(3, **config))  # the projections have more rows
    monkeypatch.undo()
    if packed.packs("cpu", torch.float32):
        monkeypatch.setattr(packed, "_PACKED_FROM", 1)
        assert takes(random_model(3, **config))
        monkeypatch.setattr(whole_stack, "_LARGEST_PACKED", 64 * 64)
        assert not takes(random_model(3, **config))


def test_fp8_weights_go_block_by_block():
    assert not takes(dlmcache_cuda.load(device="cpu", weights="fp8"))
