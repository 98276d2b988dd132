"""Devices: tests that take ``device`` run on the CPU, and on CUDA where operators and a GPU exist.

``DLMCACHE_TEST_DEVICE=cpu`` or ``cuda`` restricts them to one.

Property tests draw the same examples in every run, so that a change and not chance turns a run red.
``HYPOTHESIS_PROFILE=explore`` draws new ones.
"""

from __future__ import annotations

import os

import hypothesis
import pytest
import torch

from dlmcache_cuda import _extension
from dlmcache_cuda.model.packed import PACKED_DTYPES, packs

hypothesis.settings.register_profile("repeatable", derandomize=True)
hypothesis.settings.register_profile("explore", derandomize=False)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def available_devices() -> list[str]:
    requested = os.environ.get("DLMCACHE_TEST_DEVICE")
    if requested is not None:
        if requested not in ("cpu", "cuda"):
            raise pytest.UsageError(f"DLMCACHE_TEST_DEVICE must be cpu or cuda, got {requested!r}")
        return [requested]
    return ["cpu"] + (["cuda"] if _extension.has_cuda() and torch.cuda.is_available() else [])


@pytest.fixture(params=available_devices())
def device(request) -> str:
    return request.param


@pytest.fixture(params=PACKED_DTYPES, ids=str)
def packed_dtype(request) -> torch.dtype:
    """A type that matrices can be packed in on this processor."""
    if not packs("cpu", request.param):
        pytest.skip(f"no packed products in {request.param} on this processor")
    return request.param


@pytest.fixture(scope="session", autouse=True)
def _cache_folder(tmp_path_factory):
    """What is cached on disk goes to a temporary folder, never to the home folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DLMCACHE_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
