"""Packed rows, caches, batches and threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from dlmcache_cuda.cache import RowList
from dlmcache_cuda.model import attention

CAPACITY = 50


@pytest.fixture(autouse=True)
def _small_slots_are_dense_too(monkeypatch):
    monkeypatch.setattr(attention, "DENSE_FROM", {"cpu": 32, "cuda": 32})


def canvases(model, lengths, capacity=CAPACITY):
    tokens = torch.zeros(len(lengths), capacity, dtype=torch.int64, device=model.device)
    for slot, length in enumerate(lengths):
        generator = torch.Generator().manual_seed(slot)
        tokens[slot, :length] = torch.randint(0, 60, (length,), generator=generator)
    return tokens.flatten()


def forward(model, tokens, rows, cache, lengths):
    """With lengths on the host and on the device, as the decoder calls it."""
    on_device = torch.tensor(lengths, dtype=torch.int64, device=model.device)
    return model.forward_rows(tokens, rows, cache, on_device, lengths)


def full_forward(model, lengths, capacity=CAPACITY):
    tokens = canvases(model, lengths, capacity)
    rows = RowList.from_ranges([0] * len(lengths), lengths, capacity, model.device)
    cache = model.new_cache(len(lengths), capacity)
    return tokens, cache, forward(model, tokens, rows, cache, lengths)


@pytest.mark.parametrize("begin, end", [(0, 1), (11, 27), (44, 45), (20, 20), (0, 45)])
def test_partial_rows_over_a_filled_cache_equal_the_full_forward(model, begin, end):
    tokens, cache, full = full_forward(model, [45])
    rows = RowList.from_ranges([begin], [end], CAPACITY, model.device)
    part = forward(model, tokens, rows, cache, [45])
    assert part.shape == (end - begin, model.config.d_model)
    torch.testing.assert_close(part, full[begin:end], rtol=1e-5, atol=1e-5)


def test_stale_keys_are_used_and_renewed_ones_replaced(model):
    tokens, cache, full = full_forward(model, [45])
    tokens[3] = (tokens[3] + 1) % 60
    rows = RowList.from_ranges([10], [20], CAPACITY, model.device)
    stale = forward(model, tokens, rows, cache, [45])
    torch.testing.assert_close(stale, full[10:20], rtol=1e-5, atol=1e-5)
    changed = RowList.from_ranges([3], [4], CAPACITY, model.device)
    forward(model, tokens, changed, cache, [45])
    renewed = forward(model, tokens, rows, cache, [45])
    assert (renewed - full[10:20]).abs().max() > 1e-3


def test_keys_behind_the_canvas_are_not_read(model):
    tokens, cache, full = full_forward(model, [30])
    for k, v in zip(cache.k, cache.v, strict=True):
        k[30:], v[30:] = torch.nan, torch.nan
    rows = RowList.from_ranges([5], [9], CAPACITY, model.device)
    part = forward(model, tokens, rows, cache, [30])
    torch.testing.assert_close(part, full[5:9], rtol=1e-5, atol=1e-5)


def test_lengths_on_the_device_give_the_same(model):
    lengths = [37, 9]
    tokens, cache, dense = full_forward(model, lengths)
    rows = RowList.from_ranges([0, 0], lengths, CAPACITY, model.device)
    on_device = torch.tensor(lengths, device=model.device)
    packed = model.forward_rows(tokens, rows, model.new_cache(2, CAPACITY), on_device)
    torch.testing.assert_close(packed, dense, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "lengths", [[45, 7], [0, 33, 0, 50], [1, 2, 3], [40, 40, 5, 6, 41], [0, 0]], ids=str
)
def test_ragged_batch_equals_singles(model, lengths):
    _, _, batch = full_forward(model, lengths)
    for slot, part in enumerate(batch.split(lengths)):
        alone = torch.zeros(CAPACITY, dtype=torch.int64, device=model.device)
        alone[: lengths[slot]] = canvases(model, lengths)[slot * CAPACITY :][: lengths[slot]]
        rows = RowList.from_ranges([0], [lengths[slot]], CAPACITY, model.device)
        single = forward(model, alone, rows, model.new_cache(1, CAPACITY), [lengths[slot]])
        torch.testing.assert_close(part, single, rtol=1e-5, atol=1e-5)


def test_refreshed_and_partial_slots_in_one_forward(model):
    """Dense and packed attention side by side, as when one sequence enters beside others."""
    lengths = [45, 41, 38, 50]
    tokens, cache, full = full_forward(model, lengths)
    begin, end = [10, 0, 38, 20], [14, 41, 38, 50]
    rows = RowList.from_ranges(begin, end, CAPACITY, model.device)
    mixed = forward(model, tokens, rows, cache, lengths)
    expected = [part[b:e] for part, b, e in zip(full.split(lengths), begin, end, strict=True)]
    torch.testing.assert_close(mixed, torch.cat(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("known", [(None, 41, None, None), (None, 41, 0, None), (4, 41, 0, None)])
def test_slots_of_unknown_numbers_of_rows_beside_a_refreshed_one(model, known):
    lengths = [45, 41, 38, 50]
    tokens, cache, full = full_forward(model, lengths)
    begin, end = [10, 0, 38, 20], [14, 41, 38, 50]
    rows = RowList.from_ranges(begin, end, CAPACITY, model.device)
    unused = torch.full((3,), -1, dtype=torch.int64, device=model.device)
    rows = RowList(torch.cat((rows.row_index, unused)), rows.cu_rows, known, CAPACITY)
    mixed = forward(model, tokens, rows, cache, lengths)
    expected = [part[b:e] for part, b, e in zip(full.split(lengths), begin, end, strict=True)]
    torch.testing.assert_close(mixed[:-3], torch.cat(expected), rtol=1e-5, atol=1e-5)


def test_unused_rows_are_zeros_and_write_nothing(model):
    tokens, cache, full = full_forward(model, [45])
    before = [tensor.clone() for tensor in (*cache.k, *cache.v)]
    rows = RowList.from_ranges([4], [7], CAPACITY, model.device)
    unused = torch.full((2,), -1, dtype=torch.int64, device=model.device)
    padded = RowList(torch.cat((rows.row_index, unused)), rows.cu_rows, rows.counts, CAPACITY)
    hidden = forward(model, tokens, padded, cache, [45])
    torch.testing.assert_close(hidden[:3], full[4:7], rtol=1e-5, atol=1e-5)
    assert not hidden[3:].any()
    for old, new in zip(before, (*cache.k, *cache.v), strict=True):
        torch.testing.assert_close(new, old, rtol=1e-5, atol=1e-5)


def test_two_threads_share_a_model(models, device):
    model = models(device)
    model._rope._table = model._rope._table[:0]  # both find the table empty
    inputs = [torch.randint(0, 60, (2, length)) for length in (300, 20) * 4]
    expected = [model.logits(ids) for ids in inputs]
    model._rope._table = model._rope._table[:0]
    with ThreadPoolExecutor(2) as pool:
        for result, single in zip(pool.map(model.logits, inputs), expected, strict=True):
            torch.testing.assert_close(result, single, rtol=1e-5, atol=1e-5)


def test_logits_of_a_ragged_list(model):
    ids = [torch.randint(0, 60, (length,)) for length in (5, 40, 1)]
    logits = model.logits(ids)
    assert logits.shape == (3, 40, model.config.embedding_size)
    for row, single in zip(logits, ids, strict=True):
        torch.testing.assert_close(
            row[: len(single)], model.logits(single[None])[0], rtol=1e-5, atol=1e-4
        )
        assert not row[len(single) :].any()
    with pytest.raises(ValueError, match=r"input_ids must be \[B, N\]"):
        model.logits(torch.zeros(1, 2, 3, dtype=torch.int64))


def test_parts_of_a_block_make_up_the_block(model):
    """The way a policy runs attention and feed-forward on row sets of its own."""
    tokens, cache, full = full_forward(model, [45])
    rows = RowList.from_ranges([0], [45], CAPACITY, model.device)
    lengths = attention.KeyLengths(torch.tensor([45], device=model.device), (45,))
    h = model.embed(tokens, rows)
    for layer, k, v in zip(model.layers, cache.k, cache.v, strict=True):
        q = layer.project_qkv(layer.normed(h), rows.row_index, model.cos_sin(CAPACITY), k, v)
        attn_out = layer.attend(q, k, v, rows, lengths)
        parts = zip(h.split(20), attn_out.split(20), strict=True)
        h = torch.cat([torch.add(*layer.feed_forward(*part)) for part in parts])
    torch.testing.assert_close(h, full, rtol=1e-5, atol=1e-5)
