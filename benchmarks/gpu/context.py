"""What the cases of a part share, made when first asked for."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch

from benchmarks.gpu.model import random_llada
from benchmarks.gpu.options import Options
from benchmarks.gpu.roofline import Roofline, measure_roofline
from dlmcache_cuda.model import Llada


class Context:
    """``pending``: the cases that are to be measured, in their order."""

    def __init__(self, options: Options, pending: Sequence[Any] = ()) -> None:
        self.options = options
        self.pending = pending

    @property
    def dtype(self) -> torch.dtype:
        return torch.bfloat16 if self.options.device == "cuda" else torch.float32

    @cached_property
    def roofline(self) -> Roofline:
        return measure_roofline(self.options)

    @cached_property
    def model(self) -> Llada:
        return random_llada(self.options.size, self.options.device, self.dtype)
