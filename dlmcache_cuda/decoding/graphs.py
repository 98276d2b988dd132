"""Steps captured as CUDA graphs, one per shape."""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch

from dlmcache_cuda.decoding.phases import PhaseTimer
from dlmcache_cuda.decoding.step_program import StepOutput
from dlmcache_cuda.decoding.step_shape import StepShape

# Shapes in use at a time are few; those of a batch that has moved on are let go.
MAX_GRAPHS = 64


class StepGraphs:
    """Captures the steps of one decoder and replays them.

    A shape's first step runs kernel by kernel, which also warms up the libraries; its second step
    is captured, and from then on every step of that shape is one launch. Graphs share one memory
    pool: a step's intermediates are dead when the next one begins.

    Args:
        device: of the decoder.
        timer: of its phases.
        weights: the model's weights as they are now. Another decoder may exchange them for a copy
            with more proxies; a graph keeps those alive that it was captured with.
    """

    def __init__(self, device: torch.device, timer: PhaseTimer, weights: Callable[[], Any]) -> None:
        self._device = device
        self._timer = timer
        self._weights = weights
        self._seen: set[StepShape] = set()
        self._graphs: OrderedDict[StepShape, tuple[torch.cuda.CUDAGraph, StepOutput, Any]] = (
            OrderedDict()
        )
        self._pool = None
        self._usable = True

    def __len__(self) -> int:
        return len(self._graphs)

    def run(self, shape: StepShape, program: Callable[[], StepOutput]) -> StepOutput:
        """Runs a step: ``program`` itself or, where its shape is known, its graph.

        The program reads the control block from the same place at every step.
        """
        if shape in self._graphs:
            self._graphs.move_to_end(shape)
        elif not self._usable or shape not in self._seen:
            self._seen.add(shape)
            return program()
        elif not self._capture(shape, program):
            return program()
        graph, output, _ = self._graphs[shape]
        with self._timer.phase("network"):
            graph.replay()
        return output

    def _capture(self, shape: StepShape, program: Callable[[], StepOutput]) -> bool:
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        try:
            # Other threads may go on using the device meanwhile.
            with (
                torch.cuda.device(self._device),
                torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"),
            ):
                output = program()
        except RuntimeError as error:
            self._usable = False
            warnings.warn(
                f"a step could not be captured as a CUDA graph, so its kernels are launched one by "
                f"one, which is slower but computes the same: {error}",
                RuntimeWarning,
                stacklevel=2,
            )
            return False
        self._graphs[shape] = (graph, output, self._weights())
        if len(self._graphs) > MAX_GRAPHS:
            self._graphs.popitem(last=False)
        return True
