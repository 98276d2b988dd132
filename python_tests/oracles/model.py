"""A plain LLaDA or Dream, read from a checkpoint folder without ``dlmcache_cuda.model``."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open


@dataclass(frozen=True)
class PlainConfig:
    """The entries of ``config.json`` which decide what LLaDA computes."""

    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    rope_theta: float
    rms_norm_eps: float
    weight_tying: bool
    shift: int = 0  # 1: row p predicts the token at p + 1

    @property
    def head_dim(self) -> int:
        return self.d_model // self.n_heads


class PlainLlada:
    """LLaDA's forward over whole canvases, in the dtype of the given weights.

    ``weights`` maps LLaDA's names, without the prefix ``model.transformer.``, to tensors.
    """

    def __init__(self, weights: dict[str, torch.Tensor], config: PlainConfig) -> None:
        self.weights = weights
        self.config = config
        half = torch.arange(config.head_dim // 2, dtype=torch.float64)
        self.frequencies = config.rope_theta ** (-2.0 * half / config.head_dim)

    @classmethod
    def from_folder(cls, folder: str | Path, dtype: torch.dtype = torch.float64) -> PlainLlada:
        """Reads every ``*.safetensors`` of a checkpoint folder, converted to ``dtype``."""
        folder = Path(folder)
        raw = json.loads((folder / "config.json").read_text())
        if raw["model_type"] == "Dream":
            return cls(_dream_weights(folder, dtype), _dream_config(raw))
        config = PlainConfig(
            n_layers=raw["n_layers"],
            d_model=raw["d_model"],
            n_heads=raw["n_heads"],
            n_kv_heads=raw.get("n_kv_heads") or raw["n_heads"],
            rope_theta=raw["rope_theta"],
            rms_norm_eps=raw["rms_norm_eps"],
            weight_tying=raw.get("weight_tying", False),
        )
        weights = {
            name.removeprefix("model.transformer."): tensor.to(dtype)
            for name, tensor in _tensors(folder).items()
        }
        return cls(weights, config)

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        variance = x.pow(2).mean(-1, keepdim=True)
        return x * torch.rsqrt(variance + self.config.rms_norm_eps) * self.weights[name]

    def rotate(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Half-split rotation of ``x [B, R, heads, hd]`` by the angles of ``positions [R]``."""
        angles = positions.to(torch.float64)[:, None] * self.frequencies
        cos, sin = (f(angles).to(x.dtype)[None, :, None, :] for f in (torch.cos, torch.sin))
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)

    def forward(
        self, ids: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
        """Whole canvases ``[B, N]`` -> logits ``[B, N, V]``, and per layer K (rotated) and V.

        K and V of a layer are ``[B, N, Hkv, hd]``.
        """
        batch, length = ids.shape
        shape = (batch, length, self.config.n_kv_heads, self.config.head_dim)
        dtype = self.weights["wte.weight"].dtype
        k = [torch.zeros(shape, dtype=dtype) for _ in range(self.config.n_layers)]
        v = [torch.zeros(shape, dtype=dtype) for _ in range(self.config.n_layers)]
        return self.forward_rows(ids, torch.arange(length), k, v), k, v

    def forward_rows(
        self,
        ids: torch.Tensor,
        positions: torch.Tensor,
        k: list[torch.Tensor],
        v: list[torch.Tensor],
    ) -> torch.Tensor:
        """Computes only the rows ``positions [R]`` with tokens ``ids [B, R]``.

        Layer by layer, their K and V replace those in ``k`` and ``v`` (one ``[B, N, Hkv, hd]`` per
        layer, in place) before the rows attend to all N keys. Returns their logits ``[B, R, V]``.
        """
        c, w = self.config, self.weights
        batch, rows = ids.shape
        h = w["wte.weight"][ids]
        for layer in range(c.n_layers):
            name = f"blocks.{layer}."
            u = self.norm(h, name + "attn_norm.weight")
            q, new_k, new_v = (
                (u @ w[f"{name}{part}.weight"].T + w.get(f"{name}{part}.bias", 0.0)).view(
                    batch, rows, heads, c.head_dim
                )
                for part, heads in (
                    ("q_proj", c.n_heads),
                    ("k_proj", c.n_kv_heads),
                    ("v_proj", c.n_kv_heads),
                )
            )
            k[layer][:, positions] = self.rotate(new_k, positions)
            v[layer][:, positions] = new_v
            q = self.rotate(q, positions)
            group = c.n_heads // c.n_kv_heads
            keys = k[layer].repeat_interleave(group, dim=2)
            values = v[layer].repeat_interleave(group, dim=2)
            scores = torch.einsum("brhd,bnhd->bhrn", q, keys) / c.head_dim**0.5
            mixed = torch.einsum("bhrn,bnhd->brhd", scores.softmax(-1), values)
            h = h + mixed.reshape(batch, rows, c.d_model) @ w[name + "attn_out.weight"].T
            z = self.norm(h, name + "ff_norm.weight")
            gate = F.silu(z @ w[name + "ff_proj.weight"].T)
            h = h + (gate * (z @ w[name + "up_proj.weight"].T)) @ w[name + "ff_out.weight"].T
        head = w["wte.weight"] if c.weight_tying else w["ff_out.weight"]
        return self.norm(h, "ln_f.weight") @ head.T


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return tensors


def _dream_config(raw: dict) -> PlainConfig:
    return PlainConfig(
        n_layers=raw["num_hidden_layers"],
        d_model=raw["hidden_size"],
        n_heads=raw["num_attention_heads"],
        n_kv_heads=raw["num_key_value_heads"],
        rope_theta=raw["rope_theta"],
        rms_norm_eps=raw["rms_norm_eps"],
        weight_tying=raw["tie_word_embeddings"],
        shift=1,
    )


# Qwen2's name of a part, which Dream's checkpoints use -> LLaDA's.
DREAM_PARTS = {
    "model.layers.": "blocks.",
    "self_attn.o_proj": "attn_out",
    "self_attn.": "",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ff_norm",
    "mlp.gate_proj": "ff_proj",
    "mlp.up_proj": "up_proj",
    "mlp.down_proj": "ff_out",
    "model.embed_tokens": "wte",
    "model.norm": "ln_f",
    "lm_head": "ff_out",
}


def _dream_weights(folder: Path, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    weights = {}
    for name, tensor in _tensors(folder).items():
        for part, own in DREAM_PARTS.items():
            name = name.replace(part, own)
        weights[name] = tensor.to(dtype)
    return weights
