"""Many layers of a step by one operator, on CPUs and for small models."""

from __future__ import annotations

import torch
from torch import Tensor

from dlmcache_cuda import ops
from dlmcache_cuda.cache import RowList
from dlmcache_cuda.model.read_rows import ReadRows
from dlmcache_cuda.profiling import annotate
from dlmcache_cuda.stack.run import Run


class RunAtOnce(Run):
    """Takes as many layers at once as an operator can, and the others one by one: for exact steps
    whose layers either track or select, of which nothing is recorded and no rollout is made."""

    def _next_layers(
        self, layer: int, h: Tensor, normed: Tensor | None
    ) -> tuple[Tensor, Tensor | None, int]:
        if self.tracking:
            # Slots go on with their whole canvas from their boundary on.
            widened = self._begin_here(layer)
            rows = self._widened(widened) if widened else self.rows
            if self._takes(rows):
                h, layer = self._tracked_layers(layer, h, rows)
                return h, None, layer
        elif layer == 0 and self.step.budgets is not None and self._takes(self.rows):
            return self._selected_layers(h), None, len(self.model.layers)
        return super()._next_layers(layer, h, normed)

    def _takes(self, rows: RowList) -> bool:
        return self.model.whole_stack.takes(rows, self.cache, self.step.key_lengths)

    def _tracked_layers(self, first: int, h: Tensor, rows: RowList) -> tuple[Tensor, int]:
        """From ``first`` on, up to a layer whose test fails; the layer that is next."""
        tracking, layers = self.tracking, len(self.model.layers)
        if rows is not self.rows:
            tracking.leave(self._begin_here(first))
            with annotate("refresh"):
                # Not through the inputs themselves: queries of rows that are still tested are made
                # from what stands there.
                carried, h = h, ops.gather_rows(tracking.inputs[first], rows.row_index)
                ops.scatter_rows_(h, carried, self.rows.places_in(rows))
            self.rows = rows
        h, similarities = self.model.whole_stack.forward_tracked(
            h, rows, self.cos_sin, self.cache, self.step.key_lengths, first,
            ReadRows.among(rows, self.step.read),
            **tracking.whole(self.tests),
        )  # fmt: skip
        following = layers
        if self.tests:
            for layer, measured in enumerate(similarities.tolist()[first:], first):
                if self._note_failed(layer, measured):
                    following = layer + 1
                    break
        self.layer_rows += [rows] * (following - first)
        return h, following

    def _selected_layers(self, h: Tensor) -> Tensor:
        """All of them."""
        step, selection = self.step, self.selection
        numbers = step.budgets.rows
        if step.forced_counts is not None and not selection.spec.forced_extra:
            numbers = torch.maximum(numbers, step.forced_counts)
        sizes = [-1 if size is None else size for size in step.budgets.sizes]
        # Layers that compute all of their rows have budgets that do not limit.
        counts, carried = step.budgets.counts, self.rows.known_counts
        if counts is None or carried is None:
            self.counts = numbers.minimum(self.rows.cu_rows.diff())
        else:
            self.counts = [tuple(map(min, layer, carried)) for layer in counts]
        return self.model.whole_stack.forward_selected(
            h, self.rows, self.cos_sin, self.cache, step.key_lengths,
            numbers=numbers, sizes=sizes, forced=step.forced, **selection.whole(),
        )  # fmt: skip
