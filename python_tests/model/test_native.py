"""Types that load() keeps by itself."""

import pytest
import torch

from dlmcache_cuda.model.native import native_dtypes


@pytest.mark.parametrize(
    "capabilities, kept",
    [
        ({"avx2": True, "avx512_bf16": False}, {torch.float32}),
        ({"avx512_bf16": True}, {torch.float32, torch.bfloat16}),
        ({"amx_bf16": True}, {torch.float32, torch.bfloat16}),
        ({"bf16": True}, {torch.float32, torch.bfloat16}),
        ({}, {torch.float32}),
    ],
)
def test_processors(monkeypatch, capabilities, kept):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert set(native_dtypes(torch.device("cpu"))) == kept


def test_a_torch_that_cannot_tell(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert native_dtypes(torch.device("cpu")) == (torch.float32,)


def test_gpus_keep_every_type():
    assert torch.float16 in native_dtypes(torch.device("cuda"))
