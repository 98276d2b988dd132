"""Every operator on all of its samples: reference, opcheck, torch.compile, fake CUDA."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from dlmcache_cuda import ops, reference
from dlmcache_cuda.testing.compare import assert_close_to_reference
from dlmcache_cuda.testing.samples import Sample, all_samples

SAMPLES = list(all_samples())


def overload(sample: Sample) -> torch._ops.OpOverload:
    return getattr(torch.ops.dlmcache, sample.op).default


def outputs(function, sample: Sample, dtype: torch.dtype | None = None) -> list[torch.Tensor]:
    """What a call returns, followed by the arguments that the schema lets it mutate."""
    args, kwargs = sample.cloned(dtype)
    returned = function(*args, **kwargs)
    if returned is None:
        returned = ()
    results = [returned] if isinstance(returned, torch.Tensor) else list(returned)
    for position, argument in enumerate(overload(sample)._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            results.append(args[position] if position < len(args) else kwargs[argument.name])
    return results


@pytest.fixture(params=SAMPLES, ids=str)
def sample(request) -> Sample:
    return request.param


def test_matches_reference(sample, device):
    on_device = sample.to(device)
    results = outputs(getattr(ops, sample.op), on_device)
    twin = getattr(reference, sample.op)
    exact, same = outputs(twin, sample, torch.float64), outputs(twin, sample)
    assert len(results) == len(exact)
    for number, (result, exact_, same_) in enumerate(zip(results, exact, same, strict=True)):
        assert_close_to_reference(result, exact_, same_, f"{sample} output {number}")
        assert result.dtype == same_.dtype, f"{sample} output {number}: dtype {result.dtype}"


def test_opcheck(sample, device):
    args, kwargs = sample.to(device).cloned()
    torch.library.opcheck(overload(sample), args, kwargs)


def test_fake_cuda_tensors(sample):
    expected = outputs(overload(sample), sample)
    with FakeTensorMode():
        fake = sample.map_tensors(
            lambda t: torch.empty_strided(t.shape, t.stride(), dtype=t.dtype, device="cuda:0")
        )
        results = outputs(overload(sample), fake)
    for result, expected_ in zip(results, expected, strict=True):
        assert result.device.type == "cuda"
        assert result.shape == expected_.shape and result.dtype == expected_.dtype


def first_sample_of_each_op() -> list[Sample]:
    first: dict[str, Sample] = {}
    for candidate in SAMPLES:
        first.setdefault(candidate.op, candidate)
    return list(first.values())


@pytest.mark.parametrize("sample", first_sample_of_each_op(), ids=lambda sample: sample.op)
def test_compiles_to_one_graph(sample, device):
    on_device = sample.to(device)
    # All operators are one code object to the compiler, of which it keeps few versions.
    torch.compiler.reset()
    compiled = torch.compile(overload(sample), fullgraph=True, backend="aot_eager")
    for result, expected in zip(
        outputs(compiled, on_device), outputs(overload(sample), on_device), strict=True
    ):
        torch.testing.assert_close(result, expected, rtol=0, atol=0, equal_nan=True)


def test_every_operator_has_samples():
    registered = {
        name.removeprefix("dlmcache::").split(".")[0]
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("dlmcache::")
    }
    assert registered == {sample.op for sample in SAMPLES}
