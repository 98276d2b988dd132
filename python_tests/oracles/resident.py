"""Steps that run as on a GPU: nothing is read until they are over."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from dlmcache_cuda.decoding import decoder as decoder_module

from .host_graph import HostStepGraphs


@contextlib.contextmanager
def resident(graphs: bool = False) -> Iterator[None]:
    """Decoders made within run their steps as on a GPU, ``graphs``: replayed as well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoder_module, "reads_nothing", lambda device: True)
        if graphs:
            patch.setattr(decoder_module, "captures_steps", lambda settings: True)
            patch.setattr(decoder_module, "StepGraphs", HostStepGraphs)
        yield
