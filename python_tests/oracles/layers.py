"""A plain model taken apart layer by layer, for methods whose layers compute different rows."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from .model import PlainLlada


class Layers:
    """The parts of one forward of one sequence. N positions, R of them computed."""

    def __init__(self, model: PlainLlada) -> None:
        self.model = model
        self.config = model.config
        self.dtype = model.weights["wte.weight"].dtype

    def __len__(self) -> int:
        return self.config.n_layers

    def weight(self, layer: int, name: str) -> torch.Tensor:
        return self.model.weights[f"blocks.{layer}.{name}.weight"]

    def zeros(self, *shape: int) -> list[torch.Tensor]:
        """One tensor of zeros for each layer."""
        return [torch.zeros(shape, dtype=self.dtype) for _ in range(len(self))]

    def embed(self, tokens: Sequence[int], rows: Sequence[int]) -> torch.Tensor:
        """``[R, D]``"""
        return self.model.weights["wte.weight"][[tokens[row] for row in rows]]

    def normed(self, layer: int, h: torch.Tensor) -> torch.Tensor:
        return self.model.norm(h, f"blocks.{layer}.attn_norm.weight")

    def project(
        self, layer: int, h: torch.Tensor, rows: Sequence[int]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rotated q ``[R, H, hd]``, rotated k and plain v ``[R, Hkv, hd]``."""
        u, c = self.normed(layer, h), self.config
        heads = {"q_proj": c.n_heads, "k_proj": c.n_kv_heads, "v_proj": c.n_kv_heads}
        out = []
        for name, number in heads.items():
            x = u @ self.weight(layer, name).T
            bias = self.model.weights.get(f"blocks.{layer}.{name}.bias")
            x = x if bias is None else x + bias
            x = x.view(1, len(rows), number, c.head_dim)
            out.append((x if name == "v_proj" else self.model.rotate(x, torch.tensor(rows)))[0])
        return out[0], out[1], out[2]

    def attention(self, q: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
        """Probabilities ``[H, R, N]`` of queries ``[R, H, hd]`` over keys ``[N, Hkv, hd]``."""
        keys = keys.repeat_interleave(self.config.n_heads // self.config.n_kv_heads, dim=1)
        scores = torch.einsum("rhd,nhd->hrn", q, keys) / self.config.head_dim**0.5
        return scores.softmax(-1)

    def delta(
        self, layer: int, h: torch.Tensor, probabilities: torch.Tensor, values: torch.Tensor
    ) -> torch.Tensor:
        """What the layer adds to its input: attention's and the feed-forward's output."""
        values = values.repeat_interleave(self.config.n_heads // self.config.n_kv_heads, dim=1)
        mixed = torch.einsum("hrn,nhd->rhd", probabilities, values).flatten(1)
        a = mixed @ self.weight(layer, "attn_out").T
        z = self.model.norm(h + a, f"blocks.{layer}.ff_norm.weight")
        gate = F.silu(z @ self.weight(layer, "ff_proj").T)
        return a + (gate * (z @ self.weight(layer, "up_proj").T)) @ self.weight(layer, "ff_out").T

    def logits(self, h: torch.Tensor) -> torch.Tensor:
        """``[R, V]``"""
        weights = self.model.weights
        head = weights["wte.weight" if self.config.weight_tying else "ff_out.weight"]
        return self.model.norm(h, "ln_f.weight") @ head.T
