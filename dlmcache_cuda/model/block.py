"""One block of the stack, in the parts that a policy may run on different rows."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from dlmcache_cuda import ops
from dlmcache_cuda.cache import RowList
from dlmcache_cuda.model.attention import KeyLengths, attention, attention_with_lse
from dlmcache_cuda.model.config import LladaConfig
from dlmcache_cuda.model.read_rows import ReadRows
from dlmcache_cuda.model.weights import BlockWeights

#: On a CPU projections and the feed-forward network, wider than the residual stream, take so many
#: rows at a time: refreshes of many sequences then need a fraction of the memory and no more time.
CPU_ROWS_AT_ONCE = 512


class LladaBlock:
    """``h + a`` with ``a = attend(project_qkv(normed(h)))``, then what the feed-forward adds to it.

    Sums are made together with the norm that reads them, the last one of a block by the next block.
    """

    def __init__(self, config: LladaConfig, weights: BlockWeights) -> None:
        self.weights = weights
        self.num_heads = config.n_heads
        self.eps = config.rms_norm_eps

    def normed(self, h: Tensor) -> Tensor:
        """What the projections read: the attention norm of ``h [R, W]``."""
        return ops.rms_norm(h, self.weights.attn_norm, self.eps)

    def project(self, normed: Tensor, first: int = 0, last: int | None = None) -> Tensor:
        """Rows ``[first, last)`` of the stacked query, key and value projections, with bias."""
        weights = self.weights
        return weights.qkv(normed, first, weights.qkv_rows if last is None else last)

    def project_with_proxy(
        self, normed: Tensor, rank: int, first: int | None = None
    ) -> tuple[Tensor, Tensor]:
        """The projections from row ``first`` on and the proxy, by one product.

        Args:
            normed: ``[R, W]`` from :meth:`normed`.
            rank: from :func:`dlmcache_cuda.model.proxy.stack_proxies`.
            first: row of the stacked projections. Default: their end, the proxy alone.

        Returns:
            ``[R, (H + 2 Hkv) D - first]`` as of :meth:`project`, and ``[R, rank]``.
        """
        weights = self.weights  # once: another thread may stack a larger proxy meanwhile
        end = weights.qkv_rows
        first = end if first is None else first
        return weights.qkv.parts(normed, first, end, end + rank)

    def project_qkv(
        self, normed: Tensor, row_index: Tensor, cos_sin: Tensor, k_cache: Tensor, v_cache: Tensor
    ) -> Tensor:
        """Rotated queries of the rows; their keys and values go into the cache.

        Args:
            normed: ``[R, W]`` from :meth:`normed`.
            row_index: ``[R]`` the rows' places in the cache.
            cos_sin: ``[capacity, D]`` fp32 table of the rotary embedding.
            k_cache, v_cache: ``[M, Hkv, D]`` of this layer, written in place.

        Returns:
            ``[R, H, D]``.
        """

        def project(normed: Tensor, row_index: Tensor) -> Tensor:
            qkv = self.project(normed)
            return self.rotate(qkv, row_index, cos_sin, k_cache, v_cache, self.num_heads)

        return _by_parts(project, normed, row_index)

    def project_q(
        self, normed: Tensor, row_index: Tensor, cos_sin: Tensor, k_cache: Tensor
    ) -> Tensor:
        """Rotated queries ``[R, H, D]`` of the rows alone; the cache stays as it is."""
        width = self.num_heads * cos_sin.shape[1]
        nothing = k_cache[:, :0]
        return self.rotate(
            self.project(normed, 0, width), row_index, cos_sin, nothing, nothing, self.num_heads
        )

    @staticmethod
    def rotate(
        qkv: Tensor,
        row_index: Tensor,
        cos_sin: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        num_heads: int,
    ) -> Tensor:
        """Rotates what was projected and writes its keys and values; see ``rope_scatter_kv_``."""
        capacity = cos_sin.shape[0]
        return ops.rope_scatter_kv_(qkv, cos_sin, row_index, capacity, num_heads, k_cache, v_cache)

    def attend(
        self, q: Tensor, k_cache: Tensor, v_cache: Tensor, rows: RowList, key_lengths: KeyLengths
    ) -> Tensor:
        """Attention of ``q [R, H, D]`` over the cache and the output projection: ``[R, W]``."""
        out = attention(q, k_cache, v_cache, rows, key_lengths)
        return self.weights.attn_out(out.flatten(1))

    def attend_with_lse(
        self, q: Tensor, k_cache: Tensor, v_cache: Tensor, rows: RowList, key_lengths: KeyLengths
    ) -> tuple[Tensor, Tensor | None]:
        """:meth:`attend`, and the log-sum-exp ``[R, H]`` of the scores where it is known."""
        out, lse = attention_with_lse(q, k_cache, v_cache, rows, key_lengths)
        return self.weights.attn_out(out.flatten(1)), lse

    def feed_forward(self, h: Tensor, attn_out: Tensor) -> tuple[Tensor, Tensor]:
        """``h + attn_out [R, W]``, and what the feed-forward network adds to it: norm, SwiGLU and
        down projection ``[R, W]``."""
        h, normed = ops.add_rms_norm(h, attn_out, self.weights.ff_norm, self.eps)
        return h, _by_parts(self._feed_forward, normed)

    def _feed_forward(self, normed: Tensor) -> Tensor:
        return self.weights.ff_out(ops.swiglu(self.weights.gate_up(normed)))

    def forward(
        self,
        h: Tensor,
        normed: Tensor,
        rows: RowList,
        cos_sin: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        key_lengths: KeyLengths,
    ) -> tuple[Tensor, Tensor]:
        """All parts on the same rows, of which ``normed`` is :meth:`normed`: the two terms of the
        residual stream ``[R, W]`` behind the block."""
        # No name for the queries: they would outlive the attention.
        attn_out = self.attend(
            self.project_qkv(normed, rows.row_index, cos_sin, k_cache, v_cache),
            k_cache,
            v_cache,
            rows,
            key_lengths,
        )
        return self.feed_forward(h, attn_out)

    def finish_read(
        self,
        h: Tensor,
        q: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        key_lengths: KeyLengths,
        read: ReadRows,
    ) -> Tensor:
        """What follows the projections in a last layer: the residual stream behind the block, made
        in ``h [R, W]``, whose rows that are not read stay as they are."""
        attn_out = self.attend(read.of(q), k_cache, v_cache, read.rows, key_lengths)
        read_h, ff_out = self.feed_forward(read.of(h), attn_out)
        return read.put_back(h, read_h + ff_out)

    def add(self, h: Tensor, ff_out: Tensor) -> tuple[Tensor, Tensor]:
        """``h + ff_out`` of the block before, and its :meth:`normed`."""
        return ops.add_rms_norm(h, ff_out, self.weights.attn_norm, self.eps)


def _by_parts(compute: Callable[..., Tensor], *rows: Tensor) -> Tensor:
    """What ``compute`` makes of tensors that all have something for each row; on a CPU of so many
    rows at a time."""
    num_rows = len(rows[0])
    if not rows[0].is_cpu or num_rows <= CPU_ROWS_AT_ONCE:
        return compute(*rows)
    out: Tensor | None = None
    for first in range(0, num_rows, CPU_ROWS_AT_ONCE):
        part = slice(first, first + CPU_ROWS_AT_ONCE)
        made = compute(*(tensor[part] for tensor in rows))
        if out is None:
            out = made.new_empty((num_rows, *made.shape[1:]))
        out[part] = made
        del made  # not held beside the next one
    return out
