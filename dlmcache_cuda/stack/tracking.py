"""Most-attended rows, the drift of their attention, and the cached layer inputs (Elastic-Cache)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dlmcache_cuda import ops
from dlmcache_cuda.cache import KVCache, RowList
from dlmcache_cuda.model import Llada
from dlmcache_cuda.model.attention import KeyLengths
from dlmcache_cuda.model.block import LladaBlock
from dlmcache_cuda.policies import TrackingSpec
from dlmcache_cuda.stack.step import StackStep

SIMILARITIES = {"heads": 0, "rows": 1}


class Tracking:
    """The inputs of every layer and the tracked rows. Old queries follow from old inputs."""

    def __init__(self, model: Llada, spec: TrackingSpec, num_rows: int, cache: KVCache) -> None:
        self.spec = spec
        self.cache = cache
        layers = model.config.n_layers
        shape = (layers, num_rows, model.config.d_model)
        self._inputs = torch.zeros(shape, dtype=model.dtype, device=model.device)
        self.inputs = list(self._inputs)
        flags = {"dtype": torch.bool, "device": model.device}
        # What each layer found; the last entry takes the unused places of lists.
        self._found = torch.zeros((layers, num_rows + 1), **flags)
        self._found_rows = self._found[:, :-1]
        self.tracked = torch.zeros(num_rows, **flags)
        slots = {"dtype": torch.int64, "device": model.device}
        # ``[S]``, the first position of every slot.
        self.first = torch.zeros(cache.num_slots, **slots)
        # Of a layer and slot; there are no more positions.
        self._most = min(spec.track_num, cache.capacity)
        self._limits = torch.full((cache.num_slots,), self._most, **slots)
        none = [0] * cache.num_slots
        self._nothing = RowList.from_ranges(none, none, cache.capacity, model.device)

    @property
    def nbytes(self) -> int:
        """Memory held beside the K/V cache, in bytes."""
        return sum(t.nbytes for t in (self._inputs, self._found, self.tracked))

    def begin(self, step: StackStep) -> None:
        """Prepares the lists of a step; ``tracked`` still holds what the last step found."""
        self._step = step
        self.testing = [] if step.resumes else [plan.tested for plan in step.plans]
        if not step.resumes:
            self._found.zero_()
        lengths, flags = step.key_lengths.device, ~step.masked
        most = None if step.exact else flags.numel()
        self._open = self._flagged(lengths, flags, most)
        self._list_tracked()

    def _list_tracked(self) -> None:
        """The tracked rows of the slots that are still tested."""
        step, ends = self._step, self._step.key_lengths.device
        most = None if step.exact else len(self.inputs) * step.rows.num_slots * self._most
        if not step.exact:
            ends = ends * step.tested
        elif not any(self.testing):
            self.rows = self._nothing
            return
        elif any(length and not on for on, length in zip(self.testing, step.lengths, strict=True)):
            ends = ends * torch.tensor(self.testing).to(ends.device)
        self.rows = self._flagged(ends, self.tracked, most)

    def _flagged(self, ends: Tensor, flags: Tensor, most: int | None) -> RowList:
        return RowList.from_bounds(self.first, ends, self.cache.capacity, most, flags=flags)

    def leave(self, slots: Sequence[int]) -> None:
        """These slots recompute everything from here on: nothing is tested any more."""
        for slot in slots:
            self.testing[slot] = False
        self._list_tracked()

    def old_queries(self, layer: int, block: LladaBlock, cos_sin: Tensor) -> Tensor | None:
        """Queries of the tracked rows as they were last computed; before the inputs are renewed."""
        if not any(self.testing):
            return None
        before = ops.gather_rows(self.inputs[layer], self.rows.row_index)
        return block.project_q(
            block.normed(before), self.rows.row_index, cos_sin, self.cache.k[layer]
        )

    def similarity(
        self,
        layer: int,
        q_old: Tensor,
        q: Tensor,
        computed: RowList,
        k_old: Tensor,
        rows: RowList,
        key_lengths: KeyLengths,
    ) -> Tensor:
        """``[S]`` fp32: how alike the attention of the tracked rows is before and after.

        ``q`` belongs to the ``computed`` rows; ``k_old`` are the keys that stood at ``rows``.
        """
        q_new = ops.gather_rows(q, self.rows.places_in(computed))
        return ops.tracked_similarity(
            q_old,
            q_new,
            self.cache.k[layer],
            k_old,
            rows.row_index,
            rows.cu_rows,
            self.rows.cu_rows,
            key_lengths.device,
            rows.capacity,
            q.shape[-1] ** -0.5,
            SIMILARITIES[self.spec.similarity],
        )

    def follow(
        self, layer: int, q: Tensor, rows: RowList, key_lengths: KeyLengths, lse: Tensor | None
    ) -> None:
        """Finds the rows that the window's queries attend to most; ``lse``: of the queries' scores,
        where it is known."""
        window, found, limits = self._step.window, self._found[layer], self._limits
        if self._step.resumes:
            # What the guess found does not hold in the layers that a slot computes anew.
            limits = limits * (self._step.bounds <= layer)
            for slot, bound in enumerate(self._step.boundary):
                if bound is not None and layer >= bound:
                    found[slot * rows.capacity : (slot + 1) * rows.capacity] = False
        if not window.max_rows:
            return
        places = window.places_in(rows)
        q_window = ops.gather_rows(q, places)
        mass = ops.attention_mass(
            q_window,
            self.cache.k[layer],
            window.cu_rows,
            key_lengths.device,
            rows.capacity,
            q.shape[-1] ** -0.5,
            None if lse is None else ops.gather_rows(lse, places),
        )
        most_attended = ops.select_rows(
            ops.gather_rows(mass, self._open.row_index),
            self._open.row_index,
            self._open.cu_rows,
            limits,
            rows.num_slots * self._most,
        )[0]
        found.index_fill_(0, most_attended, True)

    def whole(self, tests: bool) -> dict[str, Any]:
        """What :func:`dlmcache_cuda.ops.track_layers_` wants to know of an exact step."""
        window, tracked = self._step.window, self.rows
        testing = bytearray(tests and tested for tested in self.testing)
        return {
            "inputs": self._inputs,
            "found": self._found_rows,
            "tracked_index": tracked.row_index,
            "cu_tracked": tracked.cu_rows,
            "tested": torch.frombuffer(testing, dtype=torch.bool),
            "gamma": self.spec.gamma if tests else 0.0,
            "similarity": SIMILARITIES[self.spec.similarity],
            "window_index": window.row_index,
            "cu_window": window.cu_rows,
            "open_index": self._open.row_index,
            "cu_open": self._open.cu_rows,
            "limits": self._limits,
        }

    def end(self) -> Tensor:
        """Makes what was found the tracked rows of the next step."""
        return torch.any(self._found_rows, 0, out=self.tracked)
