"""Decode-level tests: tiny models, on which a second thread costs more than it gives."""

from __future__ import annotations

import os

import pytest
import torch

from dlmcache_cuda.decoding import decoder


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def _resident_steps():
    """``DLMCACHE_TEST_RESIDENT=1``: these tests with steps that read nothing, as on a GPU."""
    with pytest.MonkeyPatch.context() as patch:
        if os.environ.get("DLMCACHE_TEST_RESIDENT") == "1":
            patch.setattr(decoder, "reads_nothing", lambda device: True)
        yield
