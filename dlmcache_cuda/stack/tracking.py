"""Most-attended rows, the drift of their attention, and the cached layer inputs (Elastic-Cache)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dlmcache_cuda import ops
from dlmcache_cuda.cache import KVCache, RowList
from dlmcache_cuda.model import Llada
from dlmcache_cuda.model.attention import KeyLengths
from dlmcache_cuda.model.block import LladaBlock
from dlmcache_cuda.policies import TrackingSpec
from dlmcache_cuda.stack.row_sets import flagged_rows, places_of
from dlmcache_cuda.stack.step import StackStep

SIMILARITIES = {"heads": 0, "rows": 1}


class Tracking:
    """The inputs of every layer and the tracked rows. Old queries follow from old inputs."""

    def __init__(self, model: Llada, spec: TrackingSpec, num_rows: int, cache: KVCache) -> None:
        self.spec = spec
        self.cache = cache
        shape = (model.config.n_layers, num_rows, model.config.d_model)
        self.inputs = list(torch.zeros(shape, dtype=model.dtype, device=model.device))
        self.tracked = torch.zeros(num_rows, dtype=torch.bool, device=model.device)

    @property
    def nbytes(self) -> int:
        """Memory held beside the K/V cache, in bytes."""
        return sum(tensor.nbytes for tensor in self.inputs)

    def begin(self, step: StackStep) -> None:
        """Prepares the lists of a step; ``tracked`` still holds what the last step found."""
        rows, slots = step.rows, range(step.rows.num_slots)
        self._step = step
        self.testing = [plan.tested for plan in step.plans]
        flags = torch.stack((self.tracked, ~step.masked)).view(2, rows.num_slots, rows.capacity)
        inside = torch.arange(rows.capacity, device=flags.device) < step.key_lengths.device[:, None]
        tracked_counts, self._open_counts = (flags & inside).sum(-1).tolist()
        self._tracked_counts = [n if self.testing[s] else 0 for s, n in enumerate(tracked_counts)]
        self._found = torch.zeros(
            self.tracked.numel() + 1, dtype=torch.bool, device=self.tracked.device
        )
        zeros = [0] * rows.num_slots
        self._open = flagged_rows(zeros, step.lengths, flags[1].flatten(), self._open_counts,
                                  rows.capacity)  # fmt: skip
        self._limits = torch.tensor(
            [self.spec.track_num if step.lengths[s] else 0 for s in slots], dtype=torch.int64
        ).to(flags.device)
        self._list_tracked()

    def _list_tracked(self) -> None:
        """The tracked rows of the slots that are still tested."""
        step = self._step
        ends = [n if self.testing[s] else 0 for s, n in enumerate(step.lengths)]
        counts = [n if self.testing[s] else 0 for s, n in enumerate(self._tracked_counts)]
        zeros = [0] * len(ends)
        self.rows = flagged_rows(zeros, ends, self.tracked, counts, step.rows.capacity)

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
    ) -> list[float]:
        """How alike the attention of the tracked rows is before and after, per slot.

        ``q`` belongs to the ``computed`` rows; ``k_old`` are the keys that stood at ``rows``.
        """
        q_new = ops.gather_rows(q, places_of(computed, self.rows.row_index))
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
        ).tolist()

    def follow(self, layer: int, q: Tensor, rows: RowList, key_lengths: KeyLengths) -> None:
        """Finds the rows that the window's queries attend to most."""
        window = self._step.window
        if not window.num_rows:
            return
        q_window = ops.gather_rows(q, places_of(rows, window.row_index))
        mass = ops.attention_mass(
            q_window,
            self.cache.k[layer],
            window.cu_rows,
            key_lengths.device,
            rows.capacity,
            q.shape[-1] ** -0.5,
        )
        found = ops.select_rows(
            ops.gather_rows(mass, self._open.row_index),
            self._open.row_index,
            self._open.cu_rows,
            self._limits,
            rows.num_slots * self.spec.track_num,
        )[0]
        # The last entry takes the unused places.
        self._found[found] = True

    def end(self) -> Tensor:
        """Makes what was found the tracked rows of the next step."""
        self.tracked = self._found[:-1]
        return self.tracked
