"""Sample inputs of every operator, shared by correctness tests, opcheck and benchmarks.

Each module of this package is named after its family (``norm``, ``rows``, ...) and defines
``samples(device) -> Iterator[Sample]``.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class Sample:
    """One call of an operator: ``torch.ops.dlmcache.<op>(*args, **kwargs)``."""

    op: str
    name: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)

    def cloned(self, dtype: torch.dtype | None = None) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments with every tensor cloned (strides kept); floating tensors as ``dtype``."""

        def clone(value: torch.Tensor) -> torch.Tensor:
            if dtype is not None and value.is_floating_point():
                return value.to(dtype, copy=True)
            return value.clone(memory_format=torch.preserve_format)

        sample = self.map_tensors(clone)
        return sample.args, sample.kwargs

    def map_tensors(self, function: Callable[[torch.Tensor], torch.Tensor]) -> Sample:
        """The same call with ``function`` applied to every tensor, in lists too."""

        def apply(value: Any) -> Any:
            if isinstance(value, list):
                return [apply(entry) for entry in value]
            return function(value) if isinstance(value, torch.Tensor) else value

        kwargs = {key: apply(value) for key, value in self.kwargs.items()}
        return Sample(self.op, self.name, tuple(map(apply, self.args)), kwargs)

    def to(self, device: str) -> Sample:
        """The same call with every tensor on ``device``."""
        return self.map_tensors(lambda tensor: tensor.to(device))

    def __str__(self) -> str:
        return f"{self.op}-{self.name}"


def all_samples(device: str = "cpu") -> Iterator[Sample]:
    """The samples of every family."""
    for module in sorted(module.name for module in pkgutil.iter_modules(__path__)):
        yield from importlib.import_module(f"{__name__}.{module}").samples(device)
