"""CUDA graphs played on the host: what a captured step would do when it is replayed.

A CUDA graph knows kernels, their scalar arguments and the addresses of their buffers, nothing else.
:class:`HostGraph` records the same of every operator that a program runs, and replays it on the
same buffers without running the program's Python again. What a step would wrongly bake into its
graph (a number of the first step, a buffer that is exchanged for another) is baked in here as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from dlmcache_cuda.decoding.graphs import StepGraphs
from dlmcache_cuda.decoding.step_program import StepOutput
from dlmcache_cuda.decoding.step_shape import StepShape

# What makes the host wait for the device, or fails in a capture: data on its way to the host, sizes
# that depend on data, and copies from pageable memory.
HOST_READS = {
    torch.ops.aten._local_scalar_dense.default,
    torch.ops.aten.equal.default,
    torch.ops.aten.is_nonzero.default,
    torch.ops.aten.item.default,
    torch.ops.aten.masked_select.default,
    torch.ops.aten.nonzero.default,
    torch.ops.aten.unique_dim.default,
    torch.ops.aten._unique2.default,
    torch.ops.aten.repeat_interleave.Tensor,
}


class HostGraph(TorchDispatchMode):
    """Records the operators of a program: ``with graph: program()``; then :meth:`replay`."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Any, tuple, dict, list[Tensor]]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in HOST_READS:
            raise RuntimeError(f"{func} reads the device inside a step")
        if func is torch.ops.aten.lift_fresh.default:
            raise RuntimeError("a tensor made of numbers of the host inside a step")
        result = func(*args, **kwargs)
        given = {t.untyped_storage().data_ptr() for t in _tensors((args, kwargs))}
        # Views and in-place results share memory with an argument: nothing has to be written back.
        fresh = [t for t in _tensors(result) if t.untyped_storage().data_ptr() not in given]
        self._calls.append((func, args, kwargs, fresh))
        return result

    def replay(self) -> None:
        """Runs the recorded operators once more, on the same buffers."""
        for func, args, kwargs, fresh in self._calls:
            result = func(*args, **kwargs)
            if fresh:
                given = {t.untyped_storage().data_ptr() for t in _tensors((args, kwargs))}
                again = [t for t in _tensors(result) if t.untyped_storage().data_ptr() not in given]
                for old, new in zip(fresh, again, strict=True):
                    old.copy_(new)


class HostStepGraphs(StepGraphs):
    """Captures steps as :class:`HostGraph`."""

    captured = replayed = 0

    def _capture(self, shape: StepShape, program: Callable[[], StepOutput]) -> bool:
        graph = HostGraph()
        with graph:
            output = program()
        # Recording ran the step, as capturing does not.
        self._graphs[shape] = (_Played(graph), output, self._weights())
        type(self).captured += 1
        return True


class _Played:
    def __init__(self, graph: HostGraph) -> None:
        self._graph = graph
        self._ran = True

    def replay(self) -> None:
        if not self._ran:
            self._graph.replay()
            HostStepGraphs.replayed += 1
        self._ran = False


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_flatten(tree)[0] if isinstance(leaf, Tensor)]
