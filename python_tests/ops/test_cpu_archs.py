"""Every instruction set that CPU operators are compiled for gives the same results and tokens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import dlmcache_cuda
from dlmcache_cuda import _extension, ops

PROGRAM = """
import json, torch, dlmcache_cuda
from dlmcache_cuda import _extension
from python_tests.ops.test_cpu_archs import TOLERANCES, decoded, elementwise
torch.set_num_threads(1)
print(json.dumps([_extension.build_info()["cpu_arch"], decoded(), [*map(elementwise, TOLERANCES)]]))
"""


TOLERANCES = {torch.bfloat16: 0.01, torch.float32: 1e-5}


def decoded() -> list[int]:
    model = dlmcache_cuda.load(device="cpu")
    return (
        dlmcache_cuda.decode(model, [3, 4, 5, 6], gen_length=16, seed=0).sequences[0].ids.tolist()
    )


def elementwise(dtype: torch.dtype) -> list[list[float]]:
    """Results of the operators that exist for all instruction sets."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return (torch.randn(*shape, generator=generator) * 3).to(dtype)

    x, y, weight, rows = draw(5, 48), draw(5, 48), draw(48), torch.tensor([3, 0, 7, 1, 6])
    angles = torch.randn(8, 4, generator=generator)
    table = torch.cat((angles.cos(), angles.sin()), dim=1)
    k, v, delta = draw(8, 2, 8), draw(8, 2, 8), draw(8, 48)
    found = [
        ops.rms_norm(x, weight, 1e-5),
        *ops.add_rms_norm(x, y, weight, 1e-5),
        ops.rope_scatter_kv_(x, table, rows, 8, 2, k, v),
        ops.swiglu(draw(5, 2 * 37)),
        *ops.delta_update_(delta, x, rows, y[:2], y[2:4], torch.tensor([2, 4]), weight),
    ]
    return [tensor.float().flatten().tolist() for tensor in (*found, k, v, delta)]


@pytest.mark.parametrize("arch", ["baseline", "avx2", "avx512_bf16"])
def test_lower_instruction_sets_give_the_same(arch):
    info = _extension.build_info()
    order = ["baseline", "avx2", "avx512_bf16"]
    if order.index(arch) > order.index(info["cpu_arch"]):
        pytest.skip(f"the processor has no {arch}")
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"DLMCACHE_CPU_ARCH": arch},
        capture_output=True,
        text=True,
        check=True,
    )
    used, ids, results = json.loads(run.stdout.splitlines()[-1])
    assert used == arch
    assert ids == decoded()
    for result, (dtype, tolerance) in zip(results, TOLERANCES.items(), strict=True):
        for values, expected in zip(result, elementwise(dtype), strict=True):
            if arch != "baseline":  # whose vectors are shorter, and which rounds products
                assert values == expected
            torch.testing.assert_close(
                torch.tensor(values), torch.tensor(expected), rtol=tolerance, atol=tolerance
            )
