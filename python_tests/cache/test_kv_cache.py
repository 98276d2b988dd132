"""The K/V cache."""

from __future__ import annotations

import pytest
import torch

from dlmcache_cuda.cache import KVCache


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_shapes_and_bytes(dtype, device):
    cache = KVCache(3, 2, 7, 4, 16, dtype, device)
    assert len(cache.k) == len(cache.v) == cache.num_layers == 3
    for tensor in (*cache.k, *cache.v):
        assert tensor.shape == (14, 4, 16) and tensor.is_contiguous() and tensor.dtype == dtype
        assert not tensor.any()
    assert cache.nbytes == KVCache.predict_bytes(3, 2, 7, 4, 16, dtype)
    assert cache.nbytes == 2 * 3 * 2 * 7 * 4 * 16 * dtype.itemsize


def test_layers_do_not_overlap():
    cache = KVCache(2, 1, 3, 1, 2)
    cache.k[0].fill_(1)
    cache.v[1].fill_(2)
    assert not cache.k[1].any() and not cache.v[0].any()
