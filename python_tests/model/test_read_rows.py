"""Of rows that are not read, the last layer makes only keys and values."""

from __future__ import annotations

import pytest
import torch

import dlmcache_cuda
from dlmcache_cuda import ops
from dlmcache_cuda.cache import RowList
from dlmcache_cuda.model import attention
from dlmcache_cuda.model.read_rows import ReadRows
from dlmcache_cuda.model.whole_stack import WholeStack
from dlmcache_cuda.testing.tiny_model import random_model

CAPACITY, LENGTHS = 40, [33, 21]
COMPUTED = RowList.from_ranges([3, 0], LENGTHS, CAPACITY)


def listed(*rows: list[int], unused: int = 0) -> RowList:
    """Positions of each slot."""
    index = [slot * CAPACITY + p for slot, places in enumerate(rows) for p in places]
    ends = torch.tensor([0, *map(len, rows)]).cumsum(0)
    row_index = torch.tensor(index + [-1] * unused, dtype=torch.int64)
    return RowList(row_index, ends, None, CAPACITY)


READ = {
    "some": listed([3, 20, 32], [7]),
    "of one slot": listed([5], []),
    "none": listed([], []),
    "not all computed": listed([1, 9], [20, 30]),
    "unused entries": listed([9, 10], [0], unused=3),
}


def network(model, read: RowList | None) -> tuple[torch.Tensor, torch.Tensor]:
    """What comes out, and the cache."""
    tokens = torch.randint(2, 60, (80,), generator=torch.Generator().manual_seed(0))
    cache = model.new_cache(2, CAPACITY)
    cache.whole[0].normal_(generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor(LENGTHS)
    hidden = model.forward_rows(tokens, COMPUTED, cache, lengths, LENGTHS, read=read)
    return hidden, torch.stack(cache.whole)


MODELS = {
    "bundled": lambda: dlmcache_cuda.load(device="cpu"),
    "one layer": lambda: random_model(2, device="cpu", n_layers=1),
    "biased": lambda: random_model(4, device="cpu", model_type="Dream"),
}


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("read", READ)
@pytest.mark.parametrize("model", MODELS)
def test_what_is_read_is_the_same(model, read, at_once, monkeypatch):
    model, read = MODELS[model](), READ[read]
    if not at_once:
        monkeypatch.setattr(WholeStack, "takes", lambda *_: False)
    hidden, cache = network(model, None)
    of_few, few_cache = network(model, read)
    assert torch.equal(cache, few_cache)
    places = ops.find_rows(COMPUTED.row_index, COMPUTED.cu_rows, read.row_index, CAPACITY)
    places = places[places >= 0]
    torch.testing.assert_close(of_few[places], hidden[places], rtol=1e-5, atol=1e-5)
    others = torch.ones(len(hidden), dtype=torch.bool)
    others[places] = False
    assert of_few[others].isfinite().all()
    assert (of_few[others] != hidden[others]).any(1).all()


@pytest.mark.parametrize("read", READ)
@pytest.mark.parametrize("model", MODELS)
def test_at_once_and_block_by_block_give_the_same_bits(model, read, monkeypatch):
    model = MODELS[model]()
    at_once = network(model, READ[read])
    monkeypatch.setattr(WholeStack, "takes", lambda *_: False)
    for a, b in zip(at_once, network(model, READ[read]), strict=True):
        assert torch.equal(a, b)


def test_rows_that_are_read_never_take_dense_attention(monkeypatch):
    """Queries that leave out some of a canvas are not its keys in order."""
    monkeypatch.setitem(attention.DENSE_FROM, "cpu", 2)
    counted = RowList.from_ranges([0, 0], [0, 2], CAPACITY)
    assert counted.counts == (0, 2)
    assert ReadRows.among(COMPUTED, counted).rows.counts is None


def test_nothing_is_left_out_where_all_rows_are_read():
    assert ReadRows.among(COMPUTED, None) is None
    assert ReadRows.among(COMPUTED, COMPUTED) is None
    few = ReadRows.among(COMPUTED, listed([2, 3], [0, 1]))
    assert few.places.tolist() == [-1, 0, 30, 31]


CACHES = ("none", "prefix", "dual", "dkv-decode", "dkv-greedy", "dkv-pd", "elastic")


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("cache", CACHES)
def test_decoding_finishes_only_rows_that_predict(cache, at_once, monkeypatch):
    """How many queries the last attention of a step gets."""
    if not at_once:
        monkeypatch.setattr(WholeStack, "takes", lambda *_: False)
    seen: list[tuple[int, int]] = []
    among = ReadRows.among.__func__

    def watched(cls, rows, read):
        found = among(cls, rows, read)
        if found is not None:
            seen.append((rows.max_rows, found.rows.max_rows))
        return found

    monkeypatch.setattr(ReadRows, "among", classmethod(watched))
    model = dlmcache_cuda.load(device="cpu")
    block = None if cache == "elastic" else 8
    dlmcache_cuda.decode(
        model, "12 + 30 =", gen_length=16, block_length=block, steps=16, cache=cache
    )
    assert len(seen) >= 2, seen
    assert all(read <= 16 for _, read in seen)
    assert any(2 * read < rows for rows, read in seen)
