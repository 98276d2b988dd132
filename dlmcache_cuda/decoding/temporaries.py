"""Bytes of the tensors that live while a step is computed: what its widest moments hold at once.

The moments are those of ``model/block.py``, ``model/head.py``, ``stack/run.py`` and
``csrc/ops/head.cpp``; whoever changes what is alive there changes it here, and
``python_tests/decoding/test_memory.py`` compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass

from dlmcache_cuda.model import LladaConfig
from dlmcache_cuda.model.attention import DENSE_FROM
from dlmcache_cuda.model.block import CPU_ROWS_AT_ONCE
from dlmcache_cuda.model.ranking import TILE_LOGITS
from dlmcache_cuda.policies import StackSpec
from dlmcache_cuda.samplers.sampler import Sampler

# Row lists, flags and places: a handful of int64 and bool vectors over rows or positions.
_LISTS = 128
# Widest chunk, narrowest chunk and most logits of a chunk (plan_cpu and plan_cuda in head.cpp).
_CHUNKS = {False: (8192, 1024, 1 << 20), True: (32768, 2048, 1 << 23)}
_VOCAB_STATE = 36  # sizeof(VocabState)
_SEGMENTS = {False: 8, True: 512}  # units of work that few rows are cut into
# Most row-heads whose keys are cut, keys of a split, most splits (attention_max_splits).
_CUT_ROWS = {False: 4 * 32, True: 264 * 32}  # on a CPU for each thread
_SPLIT_KEYS = {False: 512, True: 128}
_MAX_SPLITS = 32
_LANES = 32  # of a tile of tracked rows and a head (tracked_lanes)
# Scores of a block of torch's dense attention on a CPU, for each thread.
_DENSE_SCRATCH = 1 << 20


@dataclass(frozen=True, slots=True)
class Sizes:
    """The widest step: ``rows`` that enter, ``entries`` positions of all slots of the network."""

    config: LladaConfig
    itemsize: int
    on_cuda: bool
    rows: int
    longest: int
    entries: int
    threads: int
    head_rows: int | None = None
    """Positions that have all of their logits at a time; None: chunks of the vocabulary."""


def network_bytes(sizes: Sizes, spec: StackSpec, predicted: int) -> int:
    """The widest moment of a forward."""
    config = sizes.config
    width, inner = config.d_model, config.mlp_hidden_size
    kv_width = config.n_kv_heads * config.head_dim
    # In widths of the residual stream, for each row: what a layer holds from its beginning to its
    # end, and then the most that its parts add to that.
    held, extra = 2, 0  # h, normed
    attend = 3 * width  # q, what attention returns, its projection
    # Of many rows what the parts give, and what a part gives before it is copied there.
    part = sizes.rows if sizes.on_cuda else min(sizes.rows, CPU_ROWS_AT_ONCE)
    whole, copied = (width, width) if part < sizes.rows else (0, 0)
    # Of a part queries, keys and values, and q; whole: the keys too where selection may choose.
    project, projected = whole, part * (2 * width + 2 * kv_width)
    if spec.selection:
        project, projected = 2 * width + 2 * kv_width, 0
    # a, h + a, normed; of a part gate and up, their product and what it gives.
    feed_forward, inside = 3 * width + whole, part * (3 * inner + copied)
    if not spec.plain:
        if spec.tracking:
            held, extra = 3, kv_width  # and h of the layer below; the keys before
        feed_forward += width  # q
        if spec.selection:
            # a, f, q, the rows behind the layer and their norm; chosen and h + a are gone.
            attend = max(attend, 5 * width)
    numbers = sizes.rows * (held * width + extra)
    numbers += max(
        sizes.rows * project + projected, sizes.rows * attend, sizes.rows * feed_forward + inside
    )
    if spec.tracking:
        # Queries of the tracked rows, before and after, and their inputs.
        slots = sizes.entries // max(1, sizes.longest)
        tracked = min(sizes.rows, slots * config.n_layers * spec.tracking.track_num)
        numbers += 3 * tracked * width
    if spec.rollout:
        numbers += config.n_layers * sizes.rows * width  # the queries of all layers
    scratch = _attention_scratch(sizes)
    if spec.tracking and not sizes.on_cuda:
        # Old and new weights of the tracked rows; each slot's fill whole vectors.
        lanes = 2 * tracked * config.n_heads + slots * _LANES * config.n_kv_heads
        scratch = max(scratch, 4 * lanes * sizes.longest)
    return numbers * sizes.itemsize + scratch + _LISTS * sizes.entries


def _attention_scratch(sizes: Sizes) -> int:
    """Partial results of cut keys, or torch's own scratch."""
    config, cuda = sizes.config, sizes.on_cuda
    splits = min(_MAX_SPLITS, -(-sizes.longest // _SPLIT_KEYS[cuda]))
    partials = 0
    if splits > 1 and (cuda or sizes.threads > 1):
        most = _CUT_ROWS[cuda] * (1 if cuda else sizes.threads)
        row_heads = min(sizes.rows * config.n_heads, most)
        partials = row_heads * splits * (config.head_dim + 2) * 4
    dense = 0
    if sizes.longest >= DENSE_FROM["cpu"] and not cuda:
        dense = sizes.threads * _DENSE_SCRATCH
    return max(partials, dense)


def head_bytes(sizes: Sizes, spec: StackSpec, sampler: Sampler, predicted: int) -> int:
    """The widest moment of the head, for as many ``predicted`` positions."""
    width, vocab = sizes.config.d_model, sizes.config.embedding_size
    hidden = sizes.rows * width * sizes.itemsize
    normed = predicted * width * sizes.itemsize
    if sampler.cfg_scale > 0:
        # Both rows in fp32, their difference, its multiple and the sum; the rounded sum.
        normed += predicted * width * (5 * 4 + sizes.itemsize)
        if spec.tracking and sizes.on_cuda:
            # A step that goes on puts its rows and those of the first pass together.
            hidden *= 3
    if sampler.suppress_ids or sampler.confidence_suppress_ids:
        # Rows of the head for log-probabilities, both in fp32, their product.
        normed += predicted * width * (sizes.itemsize + 3 * 4)
    widest, narrowest, most = _CHUNKS[sizes.on_cuda]
    chunk = max(narrowest, min(widest, most // max(1, predicted))) + 64
    logits = predicted * min(vocab + 8, chunk) * sizes.itemsize
    if sizes.head_rows is not None:
        # Rows are rounded up; what they are rounded from is copied.
        tile = min(predicted, sizes.head_rows) + 8
        logits = tile * (vocab + width) * sizes.itemsize
    if sampler.alg is not None:
        # With a temperature or filters: logits and their scaled copy in fp32.
        tile = min(predicted, max(1, TILE_LOGITS // vocab))
        logits = max(logits, tile * (vocab + 8) * (sizes.itemsize + 4))
    state = (predicted + _SEGMENTS[sizes.on_cuda]) * _VOCAB_STATE
    return hidden + normed + logits + state + _LISTS * sizes.entries
