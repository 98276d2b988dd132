"""LLaDA in plain torch, as small as training needs it.

Pre-norm blocks with RMSNorm, half-split RoPE, bidirectional attention and SwiGLU, no biases and an
untied head. Module names are those of LLaDA's checkpoints.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Sizes of the model."""

    vocab_size: int
    d_model: int = 96
    n_layers: int = 6
    n_heads: int = 4
    mlp_hidden_size: int = 256
    rope_theta: float = 10000.0
    rms_norm_eps: float = 1e-5
    max_sequence_length: int = 512


class Block(nn.Module):
    """One transformer block; returns its attention scores when asked."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, hidden = config.d_model, config.mlp_hidden_size
        self.n_heads = config.n_heads
        self.attn_norm = nn.RMSNorm(width, eps=config.rms_norm_eps)
        self.ff_norm = nn.RMSNorm(width, eps=config.rms_norm_eps)
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = nn.Linear(width, width, bias=False)
        self.v_proj = nn.Linear(width, width, bias=False)
        self.attn_out = nn.Linear(width, width, bias=False)
        self.ff_proj = nn.Linear(width, hidden, bias=False)
        self.up_proj = nn.Linear(width, hidden, bias=False)
        self.ff_out = nn.Linear(hidden, width, bias=False)

    def forward(
        self, x: Tensor, cos: Tensor, sin: Tensor, want_scores: bool
    ) -> tuple[Tensor, Tensor | None]:
        """``x`` is ``[batch, length, width]``; scores are ``[batch, heads, length, length]``."""
        batch, length, width = x.shape
        normed = self.attn_norm(x)
        q, k, v = (
            projection(normed).view(batch, length, self.n_heads, -1).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        scores = None
        if want_scores:
            scores = (q @ k.transpose(-1, -2)) / math.sqrt(q.shape[-1])
            mixed = scores.softmax(-1) @ v
        else:
            mixed = F.scaled_dot_product_attention(q, k, v)
        x = x + self.attn_out(mixed.transpose(1, 2).reshape(batch, length, width))
        normed = self.ff_norm(x)
        x = x + self.ff_out(F.silu(self.ff_proj(normed)) * self.up_proj(normed))
        return x, scores


class TinyLLaDA(nn.Module):
    """The whole model; every position sees every other."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.wte = nn.Embedding(config.vocab_size, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.ln_f = nn.RMSNorm(config.d_model, eps=config.rms_norm_eps)
        self.ff_out = nn.Linear(config.d_model, config.vocab_size, bias=False)
        cos, sin = rope_tables(config)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.initialise()

    def initialise(self) -> None:
        """Unit embeddings and 1/sqrt(fan-in) maps: lookups need entities to stand out early."""
        config = self.config
        depth = math.sqrt(2 * config.n_layers)
        inner = 1 / math.sqrt(config.d_model)
        nn.init.normal_(self.wte.weight, std=1.0)
        nn.init.normal_(self.ff_out.weight, std=0.02)
        for block in self.blocks:
            for layer in (block.q_proj, block.k_proj, block.v_proj, block.ff_proj, block.up_proj):
                nn.init.normal_(layer.weight, std=inner)
            nn.init.normal_(block.attn_out.weight, std=inner / depth)
            down = 1.5 / math.sqrt(config.mlp_hidden_size)
            nn.init.normal_(block.ff_out.weight, std=down / depth)

    def forward(
        self, ids: Tensor, first_row: int = 0, score_layers: tuple[int, ...] = ()
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """Logits of the positions from ``first_row`` on, and attention scores of some layers."""
        length = ids.shape[1]
        cos, sin = self.cos[:length], self.sin[:length]
        x = self.wte(ids)
        scores = {}
        for index, block in enumerate(self.blocks):
            x, layer_scores = block(x, cos, sin, index in score_layers)
            if layer_scores is not None:
                scores[index] = layer_scores
        return self.ff_out(self.ln_f(x[:, first_row:])), scores


def rope_tables(config: ModelConfig) -> tuple[Tensor, Tensor]:
    """Cosines and sines, ``[max_sequence_length, head_dim]``, the two halves alike."""
    head_dim = config.d_model // config.n_heads
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    frequencies = 1.0 / config.rope_theta**exponents
    angles = torch.outer(torch.arange(config.max_sequence_length).float(), frequencies)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate pairs (i, i + head_dim / 2) by the angle of their position."""
    left, right = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-right, left), dim=-1) * sin
