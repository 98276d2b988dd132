"""The layers of a step, one after the other."""

from __future__ import annotations

import torch
from torch import Tensor

from dlmcache_cuda import ops
from dlmcache_cuda.cache import KVCache, RowList
from dlmcache_cuda.model import Llada
from dlmcache_cuda.policies import StackSpec
from dlmcache_cuda.profiling import annotate
from dlmcache_cuda.stack.rollout import rollout_importance
from dlmcache_cuda.stack.row_sets import flagged_rows
from dlmcache_cuda.stack.selection import Selection
from dlmcache_cuda.stack.step import StackResult, StackStep
from dlmcache_cuda.stack.tracking import Tracking


class Stack:
    """Runs rows through the layers as a policy's :class:`StackSpec` says.

    Args:
        model: the network.
        spec: what happens besides computing the rows that entered.
        cache: keys and values of all slots of the network; written here.
        record: keep the rows that each layer computed, for traces.
    """

    def __init__(
        self, model: Llada, spec: StackSpec, cache: KVCache, *, record: bool = False
    ) -> None:
        num_rows = cache.num_slots * cache.capacity
        self.model = model
        self.spec = spec
        self.cache = cache
        self.record = record
        self.tracking = spec.tracking and Tracking(model, spec.tracking, num_rows, cache)
        self.selection = spec.selection and Selection(model, spec.selection, num_rows, cache)

    @property
    def nbytes(self) -> int:
        """Memory held beside the K/V cache, in bytes."""
        parts = [part for part in (self.tracking, self.selection) if part]
        return sum(part.nbytes for part in parts)

    def run(self, step: StackStep) -> StackResult:
        """Computes a step; keys and values of the computed rows are renewed in the cache."""
        if self.spec.plain and not self.record:
            hidden = self.model.forward_rows(
                step.tokens, step.rows, self.cache, step.key_lengths.device, step.lengths
            )
            layers = self.model.config.n_layers
            return StackResult(hidden, step.rows, [count * layers for count in step.rows.counts])
        return _Run(self, step).all_layers()


class _Run:
    """The state of one step on its way through the layers."""

    def __init__(self, stack: Stack, step: StackStep) -> None:
        self.stack = stack
        self.step = step
        self.model = stack.model
        self.cache = stack.cache
        self.tracking = stack.tracking
        self.selection = stack.selection
        slots = range(step.rows.num_slots)
        layers = len(self.model.layers)
        self.rows = step.rows
        self.cos_sin = self.model.cos_sin(step.rows.capacity)
        # From which layer on a slot computes its whole canvas; rows that entered as a range are
        # all that their slot carries, whatever is tested.
        self.boundary: list[int | None] = [None] * len(slots)
        self.similarities: list[list[float | None]] = [[None] * layers for _ in slots]
        self.computed = [0] * len(slots)
        self.layer_rows: list[RowList] | None = [] if stack.record else None
        self.queries: list[Tensor] = []

    def all_layers(self) -> StackResult:
        step = self.step
        if self.tracking:
            self.tracking.begin(step)
        h = self.model.embed(step.tokens, self.rows.row_index)
        normed = None
        for layer in range(len(self.model.layers)):
            with annotate("layer", layer):
                h, normed = self._layer(layer, h, normed)
        importance = None
        if self.stack.spec.rollout:
            importance = rollout_importance(self.queries, self.cache, self.rows, step.key_lengths)
        return StackResult(
            hidden=h,
            rows=self.rows,
            computed=self.computed,
            tracked=self.tracking.end() if self.tracking else None,
            importance=importance,
            boundaries=self.boundary,
            similarities=self.similarities,
            layer_rows=self.layer_rows,
        )

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
        rows, places = self.rows, None
        k_cache, v_cache = self.cache.k[layer], self.cache.v[layer]
        budgets = self._budgets(layer)
        if budgets == list(rows.counts):
            computed = rows
            q = block.project_qkv(normed, rows.row_index, self.cos_sin, k_cache, v_cache)
            if self.selection:
                self.selection.remember_signal(layer, normed, rows.row_index)
        else:
            q, computed, places = self.selection.choose(
                layer, block, normed, rows, budgets, self.step.forced, self.cos_sin
            )
        attn_out = block.attend(q, k_cache, v_cache, computed, self.step.key_lengths)
        if q_old is not None:
            self._test(layer, q_old, q, computed, k_old)
        if self.tracking:
            self.tracking.follow(layer, q, computed, self.step.key_lengths)
        if self.stack.spec.rollout:
            self.queries.append(q)
        self._count(computed)
        if self.selection is None or self.selection.delta[layer] is None:
            h = h + attn_out
            return h + block.feed_forward(h), None
        if places is None:
            places = torch.arange(rows.row_index.numel(), device=h.device)
            places = torch.where(rows.row_index < 0, -1, places)
            chosen = h
        else:
            chosen = ops.gather_rows(h, places)
        ff_out = block.feed_forward(chosen + attn_out)
        following = layer + 1 < len(self.model.layers)
        norm = self.model.layers[layer + 1].weights.attn_norm if following else None
        return self.selection.carry(layer, h, rows, attn_out, ff_out, places, norm)

    def _budgets(self, layer: int) -> list[int]:
        counts = list(self.rows.counts)
        if self.selection is None:
            return counts
        sparse = [
            plan.sparse and (not plan.marked or (bound is not None and layer > bound))
            for plan, bound in zip(self.step.plans, self.boundary, strict=True)
        ]
        return self.selection.budgets(layer, self.step, sparse, counts)

    def _enter_tracked(self, layer: int, h: Tensor) -> tuple[Tensor, bool, Tensor | None]:
        """Renews the layer's inputs; slots whose boundary this layer is go on with all rows."""
        tracking, rows = self.tracking, self.rows
        widened = [slot for slot, bound in enumerate(self.boundary) if bound == layer]
        if widened:
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
        flags = torch.zeros(step.tokens.numel() + 1, dtype=torch.bool, device=step.tokens.device)
        flags[self.rows.row_index] = True
        counts = list(self.rows.counts)
        for slot in slots:
            counts[slot] = step.lengths[slot]
            flags[slot * capacity : slot * capacity + counts[slot]] = True
        zeros = [0] * len(counts)
        return flagged_rows(zeros, step.lengths, flags[:-1], counts, capacity)

    def _test(self, layer: int, q_old: Tensor, q: Tensor, computed: RowList, k_old: Tensor) -> None:
        tracking = self.tracking
        values = tracking.similarity(
            layer, q_old, q, computed, k_old, self.rows, self.step.key_lengths
        )
        for slot, value in enumerate(values):
            if tracking.testing[slot]:
                self.similarities[slot][layer] = value
                if self.boundary[slot] is None and value < tracking.spec.gamma:
                    self.boundary[slot] = layer + 1

    def _count(self, computed: RowList) -> None:
        for slot, count in enumerate(computed.counts):
            self.computed[slot] += count
        if self.layer_rows is not None:
            self.layer_rows.append(computed)
