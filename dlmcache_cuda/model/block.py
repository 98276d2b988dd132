"""One block of the stack, in the parts that a policy may run on different rows."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from dlmcache_cuda import ops
from dlmcache_cuda.cache import RowList
from dlmcache_cuda.model.attention import KeyLengths, attention
from dlmcache_cuda.model.config import LladaConfig
from dlmcache_cuda.model.weights import BlockWeights


class LladaBlock:
    """``h + a`` with ``a = attend(project_qkv(h))``, then ``h + feed_forward(h)``."""

    def __init__(self, config: LladaConfig, weights: BlockWeights) -> None:
        self.weights = weights
        self.num_heads = config.n_heads
        self.eps = config.rms_norm_eps

    def project_qkv(
        self, h: Tensor, row_index: Tensor, cos_sin: Tensor, k_cache: Tensor, v_cache: Tensor
    ) -> Tensor:
        """Rotated queries of the rows; their keys and values go into the cache.

        Args:
            h: ``[R, W]`` residual stream.
            row_index: ``[R]`` the rows' places in the cache.
            cos_sin: ``[capacity, D]`` fp32 table of the rotary embedding.
            k_cache, v_cache: ``[M, Hkv, D]`` of this layer, written in place.

        Returns:
            ``[R, H, D]``.
        """
        normed = ops.rms_norm(h, self.weights.attn_norm, self.eps)
        qkv = F.linear(normed, self.weights.qkv, self.weights.qkv_bias)
        capacity = cos_sin.shape[0]
        return ops.rope_scatter_kv_(
            qkv, cos_sin, row_index, capacity, self.num_heads, k_cache, v_cache
        )

    def attend(
        self, q: Tensor, k_cache: Tensor, v_cache: Tensor, rows: RowList, key_lengths: KeyLengths
    ) -> Tensor:
        """Attention of ``q [R, H, D]`` over the cache and the output projection: ``[R, W]``."""
        out = attention(q, k_cache, v_cache, rows, key_lengths)
        return F.linear(out.flatten(1), self.weights.attn_out)

    def feed_forward(self, h: Tensor) -> Tensor:
        """Norm, SwiGLU and down projection of ``h [R, W]``: ``[R, W]``, to be added to ``h``."""
        normed = ops.rms_norm(h, self.weights.ff_norm, self.eps)
        return F.linear(ops.swiglu(F.linear(normed, self.weights.gate_up)), self.weights.ff_out)

    def forward(
        self,
        h: Tensor,
        rows: RowList,
        cos_sin: Tensor,
        k_cache: Tensor,
        v_cache: Tensor,
        key_lengths: KeyLengths,
    ) -> Tensor:
        """The residual stream ``[R, W]`` behind the block; all parts on the same rows."""
        q = self.project_qkv(h, rows.row_index, cos_sin, k_cache, v_cache)
        h = h + self.attend(q, k_cache, v_cache, rows, key_lengths)
        return h + self.feed_forward(h)
