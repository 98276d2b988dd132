"""A small random model, shared by tests that only read it."""

from __future__ import annotations

import pytest

from dlmcache_cuda.testing.tiny_model import random_model


@pytest.fixture(scope="session")
def models():
    """Models by device."""
    built = {}

    def get(device: str):
        if device not in built:
            built[device] = random_model(
                3, device=device, d_model=64, n_heads=4, n_kv_heads=2, n_layers=3
            )
        return built[device]

    return get


@pytest.fixture
def model(models, device):
    return models(device)
