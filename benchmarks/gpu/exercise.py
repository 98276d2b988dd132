"""Every operator on all of its samples: what a sanitizer watches."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from benchmarks.gpu.context import Context
from benchmarks.gpu.options import Options
from dlmcache_cuda import ops, reference
from dlmcache_cuda.testing.compare import assert_close_to_reference
from dlmcache_cuda.testing.samples import Sample, all_samples


def cases(options: Options) -> dict[str, list[Sample]]:
    by_op: dict[str, list[Sample]] = {}
    for sample in all_samples():
        by_op.setdefault(sample.op, []).append(sample)
    return by_op


def measure(context: Context, case: list[Sample]) -> dict[str, Any]:
    for sample in case:
        twin = getattr(reference, sample.op)
        result = _outputs(getattr(ops, sample.op), sample.to(context.options.device))
        exact, same = _outputs(twin, sample, torch.float64), _outputs(twin, sample)
        for number, tensors in enumerate(zip(result, exact, same, strict=True)):
            assert_close_to_reference(*tensors, f"{sample} output {number}")
    return {"samples": len(case)}


def _outputs(function, sample: Sample, dtype: torch.dtype | None = None) -> list[torch.Tensor]:
    """What a call returns, and the arguments that it writes."""
    args, kwargs = sample.cloned(dtype)
    returned = function(*args, **kwargs)
    if returned is None:
        returned = ()
    results = [returned] if isinstance(returned, torch.Tensor) else list(returned)
    schema = getattr(torch.ops.dlmcache, sample.op).default._schema
    for position, argument in enumerate(schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            results.append(args[position] if position < len(args) else kwargs[argument.name])
    return results


def table(cases: Mapping[str, dict[str, Any]]) -> str:
    lines = ["| operator | samples |", "|---|---|"]
    return "\n".join(lines + [f"| {op} | {case['samples']} |" for op, case in cases.items()])


def headline(cases: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    samples = sum(case["samples"] for case in cases.values())
    return [{"what": "calls equal to the reference", "value": samples, "unit": "samples"}]
