"""Runs rows through the layers as a policy asks for it."""

from __future__ import annotations

from dlmcache_cuda.cache import KVCache
from dlmcache_cuda.model import Llada
from dlmcache_cuda.policies import StackSpec
from dlmcache_cuda.stack.at_once import RunAtOnce
from dlmcache_cuda.stack.run import Run
from dlmcache_cuda.stack.selection import Selection
from dlmcache_cuda.stack.step import StackResult, StackStep
from dlmcache_cuda.stack.tracking import Tracking


class Stack:
    """Runs rows through the layers as a policy's :class:`StackSpec` says.

    Args:
        model: the network.
        spec: what happens besides computing the rows that entered.
        cache: keys and values of all slots of the network; written here.
        record: keep the rows that each layer computed and what selected them, for traces.
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
        """Computes a step; keys and values of the computed rows are renewed in the cache.

        Where layers test drift, an exact step knows each similarity before the next layer begins. A
        step that reads nothing goes on with the rows that entered and tells the boundaries at its
        end: all layers above a boundary were a guess. Nothing of the guess survives a second step
        with ``boundary`` set, which computes the canvases of these slots in exactly those layers.
        """
        if self.spec.plain and not self.record:
            hidden = self.model.forward_rows(
                step.tokens,
                step.rows,
                self.cache,
                step.key_lengths.device,
                step.lengths,
                step.prompt_embeds,
                step.read,
            )
            layers, counts = self.model.config.n_layers, step.rows.known_counts
            if counts is None:
                return StackResult(hidden, step.rows, step.rows.cu_rows.diff() * layers)
            return StackResult(hidden, step.rows, tuple(layers * count for count in counts))
        return self._run_of(step)(self, step).all_layers()

    def _run_of(self, step: StackStep) -> type[Run]:
        both = self.tracking is not None and self.selection is not None
        plain = not (both or self.spec.rollout or self.record or step.resumes)
        return RunAtOnce if step.exact and plain else Run
