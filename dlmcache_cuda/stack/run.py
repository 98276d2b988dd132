"""The layers of a step, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from dlmcache_cuda import ops
from dlmcache_cuda.cache import RowList
from dlmcache_cuda.model.read_rows import ReadRows
from dlmcache_cuda.profiling import annotate
from dlmcache_cuda.stack.budgets import SlotRows, is_sparse, layer_rows
from dlmcache_cuda.stack.rollout import rollout_importance
from dlmcache_cuda.stack.step import LayerSelection, StackResult, StackStep

if TYPE_CHECKING:
    from dlmcache_cuda.stack.stack import Stack


class Run:
    """The state of one step on its way through the layers."""

    def __init__(self, stack: Stack, step: StackStep) -> None:
        self.stack = stack
        self.step = step
        self.model = stack.model
        self.cache = stack.cache
        self.tracking = stack.tracking
        self.selection = stack.selection
        slots = step.rows.num_slots
        self.rows = step.rows
        self.cos_sin = self.model.cos_sin(step.rows.capacity)
        # From which layer on a slot computes its whole canvas; rows that entered as a range are
        # all that their slot carries, whatever is tested.
        self.boundary: list[int | None] = list(step.boundary or [None] * slots)
        spec = stack.spec.tracking
        self.tests = spec is not None and spec.gamma is not None and not step.resumes
        self.similarities: list[Tensor] = []
        self.layer_rows: list[RowList] = []
        # By layer and slot, the number of these where the rows themselves are not listed.
        self.counts: Tensor | list[tuple[int, ...]] | None = None
        self.layer_selection: list[LayerSelection | None] = []
        self.queries: list[Tensor] = []

    def all_layers(self) -> StackResult:
        step, layers = self.step, len(self.model.layers)
        if self.tracking:
            self.tracking.begin(step)
        h = self.model.embed(step.tokens, self.rows, step.prompt_embeds)
        normed = None
        # A step that goes on has no rows below the first boundary.
        first = min(b for b in self.boundary if b is not None) if step.resumes else 0
        layer = first
        while layer < layers:
            h, normed, layer = self._next_layers(layer, h, normed)
        importance = None
        if self.stack.spec.rollout:
            importance = rollout_importance(self.queries, self.cache, self.rows, step.key_lengths)
        # An exact step went by them already.
        kept = self.tests and (self.stack.record or not step.exact)
        similarities = torch.stack(self.similarities) if kept else None
        boundaries = self._boundaries(similarities) if kept else None
        return StackResult(
            hidden=h,
            rows=self.rows,
            computed=self._computed(boundaries),
            tracked=self.tracking.end() if self.tracking else None,
            importance=importance,
            boundaries=boundaries,
            similarities=similarities,
            layer_rows=self.layer_rows if self.stack.record else None,
            layer_selection=self.layer_selection if self.stack.record else None,
        )

    def _next_layers(
        self, layer: int, h: Tensor, normed: Tensor | None
    ) -> tuple[Tensor, Tensor | None, int]:
        """One layer or more from ``layer`` on: what comes out, its norm where it is known, and the
        layer that is next."""
        with annotate("layer", layer):
            h, normed = self._layer(layer, h, normed)
        return h, normed, layer + 1

    def _begin_here(self, layer: int) -> list[int]:
        """Slots whose boundary this layer is."""
        return [slot for slot, bound in enumerate(self.boundary) if bound == layer]

    def _layer(self, layer: int, h: Tensor, normed: Tensor | None) -> tuple[Tensor, Tensor | None]:
        block = self.model.layers[layer]
        q_old = k_old = None
        if self.tracking:
            h, changed, q_old = self._enter_tracked(layer, h)
            normed = None if changed else normed
        if normed is None:
            normed = block.normed(h)
        if q_old is not None:
            # Only the keys that the layer overwrites: the rest of the cache is old and new at once.
            k_old = ops.gather_rows(self.cache.k[layer], self.rows.row_index)
        rows, selected = self.rows, None
        k_cache, v_cache = self.cache.k[layer], self.cache.v[layer]
        budget = self._budget(layer) if self.selection else None
        if budget is None:
            computed = rows
            q = block.project_qkv(normed, rows.row_index, self.cos_sin, k_cache, v_cache)
            if self.selection:
                self.selection.remember_signal(layer, normed, rows.row_index)
        else:
            q, computed, selected = self.selection.choose(
                layer, block, normed, rows, *budget, self.step.forced, self.cos_sin
            )
        lengths, read, lse = self.step.key_lengths, self._read(layer), None
        attended = (q, k_cache, v_cache, computed, lengths)
        if read is None and self.tracking:
            attn_out, lse = block.attend_with_lse(*attended)
        elif read is None:
            attn_out = block.attend(*attended)
        if self.tests:
            self._test(layer, q_old, q, computed, k_old)
        if self.tracking:
            self.tracking.follow(layer, q, computed, lengths, lse)
        if self.stack.spec.rollout:
            self.queries.append(q)
        self.layer_rows.append(computed)
        if self.stack.record:
            self.layer_selection.append(selected)
        if read is not None:
            return block.finish_read(h, q, k_cache, v_cache, lengths, read), None
        if self.selection is None or self.selection.delta[layer] is None:
            h, ff_out = block.feed_forward(h, attn_out)
            if layer + 1 < len(self.model.layers):
                return self.model.layers[layer + 1].add(h, ff_out)
            return h + ff_out, None
        if selected is None:
            places = torch.arange(rows.max_rows, device=h.device)
            places.masked_fill_(rows.row_index < 0, -1)
            chosen = h
        else:
            places = selected.places
            chosen = ops.gather_rows(h, places)
        ff_out = block.feed_forward(chosen, attn_out)[1]
        following = layer + 1 < len(self.model.layers)
        norm = self.model.layers[layer + 1].weights.attn_norm if following else None
        return self.selection.carry(layer, h, rows, attn_out, ff_out, places, norm)

    def _read(self, layer: int) -> ReadRows | None:
        """The rows that a last layer has to finish. Layers that select keep what they add to all of
        their rows."""
        if layer + 1 < len(self.model.layers) or self.selection:
            return None
        return ReadRows.among(self.rows, self.step.read)

    def _budget(self, layer: int) -> tuple[Tensor, int, Sequence[int] | None] | None:
        """Rows that each slot computes at a layer, of all slots at most, and the numbers where the
        host knows them; None: all rows."""
        step, spec = self.step, self.selection.spec
        if step.budgets is None:
            return self._exact_budget(layer)
        most = step.budgets.sizes[layer]
        if most is None:
            return None
        number, counts = step.budgets.rows[layer], step.budgets.counts
        if step.forced_counts is not None and not spec.forced_extra:
            number = torch.maximum(number, step.forced_counts)
        return number, most, None if counts is None else counts[layer]

    def _exact_budget(self, layer: int) -> tuple[Tensor, int, Sequence[int]] | None:
        step, spec = self.step, self.selection.spec
        slots = zip(step.plans, self.boundary, strict=True)
        if layer < spec.first_layer or not any(is_sparse(plan, layer, b) for plan, b in slots):
            return None
        count = list(self.rows.counts)
        forced = [0] * len(count) if step.forced_counts is None else step.forced_counts.tolist()
        rows = [
            layer_rows(
                spec,
                layer,
                SlotRows(plan, step.gen_lengths[s], step.lengths[s], count[s], forced[s]),
                self.boundary[s],
            )[1]
            for s, plan in enumerate(step.plans)
        ]
        if rows == count:
            return None
        number = torch.tensor(rows, dtype=torch.int64).to(self.rows.cu_rows.device)
        return number, sum(rows), rows

    def _enter_tracked(self, layer: int, h: Tensor) -> tuple[Tensor, bool, Tensor | None]:
        """Renews the layer's inputs; slots whose boundary this layer is go on with all rows."""
        tracking, rows = self.tracking, self.rows
        widened = self._begin_here(layer)
        if widened and not self.step.resumes:
            tracking.leave(widened)
        q_old = tracking.old_queries(layer, self.model.layers[layer], self.cos_sin)
        ops.scatter_rows_(tracking.inputs[layer], h, rows.row_index)
        if widened:
            with annotate("refresh"):
                self.rows = self._widened(widened)
                h = ops.gather_rows(tracking.inputs[layer], self.rows.row_index)
        return h, bool(widened), q_old

    def _widened(self, slots: list[int]) -> RowList:
        """The rows carried so far, and all rows of these slots."""
        step, capacity = self.step, self.rows.capacity
        flags, counts = None, list(step.lengths)
        if any(length and slot not in slots for slot, length in enumerate(counts)):
            # The last entry takes the unused places of the list.
            marks = self.rows.row_index.new_zeros(step.tokens.numel() + 1, dtype=torch.bool)
            marks[self.rows.row_index] = True
            counts = list(self.rows.counts)
            for slot in slots:
                counts[slot] = step.lengths[slot]
                marks[slot * capacity : slot * capacity + counts[slot]] = True
            flags = marks[:-1]
        first, ends = self.tracking.first, step.key_lengths.device
        return RowList.from_bounds(first, ends, capacity, sum(counts), flags=flags, counts=counts)

    def _test(
        self, layer: int, q_old: Tensor | None, q: Tensor, computed: RowList, k_old: Tensor | None
    ) -> None:
        tracking, step = self.tracking, self.step
        if q_old is None:
            nothing = torch.full((step.rows.num_slots,), torch.nan, device=q.device)
            self.similarities.append(nothing)
            return
        similarity = tracking.similarity(
            layer, q_old, q, computed, k_old, self.rows, step.key_lengths
        )
        if not step.exact:
            self.similarities.append(similarity.masked_fill(~step.tested, torch.nan))
            return
        testing = torch.tensor(tracking.testing).to(q.device)
        self.similarities.append(similarity.masked_fill(~testing, torch.nan))
        self._note_failed(layer, similarity.tolist())

    def _note_failed(self, layer: int, similarities: Sequence[float]) -> bool:
        """Slots whose test failed compute everything from the next layer on; whether there are."""
        tracking = self.tracking
        failed = [
            slot
            for slot, value in enumerate(similarities)
            if tracking.testing[slot] and value < tracking.spec.gamma
        ]
        for slot in failed:
            self.boundary[slot] = layer + 1
        return bool(failed)

    def _boundaries(self, similarities: Tensor) -> Tensor:
        if self.step.exact:
            bounds = [-1 if bound is None else bound for bound in self.boundary]
            return torch.tensor(bounds).to(self.rows.cu_rows.device)
        failed = (similarities < self.tracking.spec.gamma) & self.step.tested
        first = failed.int().argmax(0) + 1
        return first.masked_fill(~failed.any(0), -1)

    def _computed(self, boundaries: Tensor | None) -> Tensor | tuple[int, ...]:
        exact = boundaries is None or self.step.exact
        counts = self.counts
        if counts is None:
            counts = [rows.known_counts for rows in self.layer_rows]
            if not exact or None in counts:
                counts = torch.stack([rows.cu_rows for rows in self.layer_rows]).diff()
        if isinstance(counts, list):
            return tuple(map(sum, zip(*counts, strict=True)))
        if exact:
            return counts.sum(0)
        # What was guessed above a boundary is not what the method computes.
        layers = torch.arange(len(counts), device=counts.device)[:, None]
        return (counts * ((layers < boundaries) | (boundaries < 0))).sum(0)
