"""A plain bidirectional LLaDA or Dream, read from a folder without ``dlmcache_cuda.model``."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open

# Dream carries Qwen2's names; the weights are kept under LLaDA's.
DREAM_NAMES = {
    "model.embed_tokens": "wte",
    "model.norm": "ln_f",
    "lm_head": "ff_out",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ff_norm",
    "self_attn.q_proj": "q_proj",
    "self_attn.k_proj": "k_proj",
    "self_attn.v_proj": "v_proj",
    "self_attn.o_proj": "attn_out",
    "mlp.gate_proj": "ff_proj",
    "mlp.up_proj": "up_proj",
    "mlp.down_proj": "ff_out",
}


@dataclass(frozen=True)
class PlainConfig:
    """The entries of ``config.json`` which decide what the model computes."""

    n_layers: int
    d_model: int
    n_heads: int
    n_kv_heads: int
    rope_theta: float
    rms_norm_eps: float
    weight_tying: bool
    shift: int = 0  # the token at p is predicted by row p - shift: LLaDA 0, Dream 1

    @property
    def head_dim(self) -> int:
        return self.d_model // self.n_heads

    @classmethod
    def from_dict(cls, raw: dict) -> PlainConfig:
        if raw["model_type"] == "Dream":
            return cls(
                n_layers=raw["num_hidden_layers"],
                d_model=raw["hidden_size"],
                n_heads=raw["num_attention_heads"],
                n_kv_heads=raw["num_key_value_heads"],
                rope_theta=raw["rope_theta"],
                rms_norm_eps=raw["rms_norm_eps"],
                weight_tying=raw["tie_word_embeddings"],
                shift=1,
            )
        return cls(
            n_layers=raw["n_layers"],
            d_model=raw["d_model"],
            n_heads=raw["n_heads"],
            n_kv_heads=raw.get("n_kv_heads") or raw["n_heads"],
            rope_theta=raw["rope_theta"],
            rms_norm_eps=raw["rms_norm_eps"],
            weight_tying=raw.get("weight_tying", False),
        )


def llada_name(name: str) -> str:
    """LLaDA's name, without the prefix ``model.transformer.``, of a weight of LLaDA or Dream."""
    layer = re.fullmatch(r"model\.layers\.(\d+)\.(.+)\.(weight|bias)", name)
    if layer:
        return f"blocks.{layer[1]}.{DREAM_NAMES[layer[2]]}.{layer[3]}"
    stem, kind = name.rsplit(".", 1)
    if stem in DREAM_NAMES:
        return f"{DREAM_NAMES[stem]}.{kind}"
    return name.removeprefix("model.transformer.")


class PlainLlada:
    """The forward of LLaDA (or Dream) over whole canvases, in the dtype of the given weights.

    ``weights`` maps LLaDA's names, without the prefix ``model.transformer.``, to tensors; Dream's
    have the biases ``blocks.{l}.{q,k,v}_proj.bias`` as well.
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
        config = PlainConfig.from_dict(json.loads((folder / "config.json").read_text()))
        weights = {}
        for path in sorted(folder.glob("*.safetensors")):
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118 (safe_open is no mapping)
                    weights[llada_name(name)] = file.get_tensor(name).to(dtype)
        return cls(weights, config)

    # Pieces of a layer, for oracles that compute different rows in different layers.

    def embed(self, ids: torch.Tensor) -> torch.Tensor:
        """``[B, R]`` -> ``[B, R, D]``."""
        return self.weights["wte.weight"][ids]

    def norm(self, x: torch.Tensor, name: str) -> torch.Tensor:
        variance = x.pow(2).mean(-1, keepdim=True)
        return x * torch.rsqrt(variance + self.config.rms_norm_eps) * self.weights[name]

    def attention_input(self, layer: int, h: torch.Tensor) -> torch.Tensor:
        return self.norm(h, f"blocks.{layer}.attn_norm.weight")

    def project(self, layer: int, u: torch.Tensor, which: str) -> torch.Tensor:
        """Queries, keys or values (``which`` is q, k or v) ``[B, R, heads, hd]``, unrotated."""
        name = f"blocks.{layer}.{which}_proj."
        x = u @ self.weights[name + "weight"].T
        if name + "bias" in self.weights:
            x = x + self.weights[name + "bias"]
        return x.unflatten(-1, (-1, self.config.head_dim))

    def rotate(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        """Half-split rotation of ``x [B, R, heads, hd]`` by the angles of ``positions [R]``."""
        angles = positions.to(torch.float64)[:, None] * self.frequencies
        cos, sin = (f(angles).to(x.dtype)[None, :, None, :] for f in (torch.cos, torch.sin))
        first, second = x.chunk(2, dim=-1)
        return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)

    def probabilities(self, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        """Rotated queries ``[B, R, H, hd]`` on keys ``[B, K, Hkv, hd]`` -> ``[B, H, R, K]``."""
        keys = k.repeat_interleave(self.config.n_heads // self.config.n_kv_heads, dim=2)
        scores = torch.einsum("brhd,bnhd->bhrn", q, keys) / self.config.head_dim**0.5
        return scores.softmax(-1)

    def attend(self, layer: int, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        """Attention of rotated ``q`` over all given keys, after its output projection."""
        values = v.repeat_interleave(self.config.n_heads // self.config.n_kv_heads, dim=2)
        mixed = torch.einsum("bhrn,bnhd->brhd", self.probabilities(q, k), values)
        return mixed.flatten(2) @ self.weights[f"blocks.{layer}.attn_out.weight"].T

    def feed_forward(self, layer: int, h: torch.Tensor) -> torch.Tensor:
        """What the FFN adds to ``h``, the residual stream after attention."""
        name, w = f"blocks.{layer}.", self.weights
        z = self.norm(h, name + "ff_norm.weight")
        gate = F.silu(z @ w[name + "ff_proj.weight"].T)
        return (gate * (z @ w[name + "up_proj.weight"].T)) @ w[name + "ff_out.weight"].T

    def logits(self, h: torch.Tensor) -> torch.Tensor:
        head = "wte.weight" if self.config.weight_tying else "ff_out.weight"
        return self.norm(h, "ln_f.weight") @ self.weights[head].T

    # Whole forwards.

    def empty_cache(self, batch: int, length: int) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """K and V of every layer, ``[B, N, Hkv, hd]`` each, zeros."""
        c = self.config
        dtype = self.weights["wte.weight"].dtype
        shape = (batch, length, c.n_kv_heads, c.head_dim)
        k, v = ([torch.zeros(shape, dtype=dtype) for _ in range(c.n_layers)] for _ in range(2))
        return k, v

    def forward(
        self, ids: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
        """Whole canvases ``[B, N]`` -> logits ``[B, N, V]``, and per layer K (rotated) and V.

        K and V of a layer are ``[B, N, Hkv, hd]``.
        """
        batch, length = ids.shape
        k, v = self.empty_cache(batch, length)
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
        h = self.embed(ids)
        for layer in range(self.config.n_layers):
            u = self.attention_input(layer, h)
            k[layer][:, positions] = self.rotate(self.project(layer, u, "k"), positions)
            v[layer][:, positions] = self.project(layer, u, "v")
            q = self.rotate(self.project(layer, u, "q"), positions)
            h = h + self.attend(layer, q, k[layer], v[layer])
            h = h + self.feed_forward(layer, h)
        return self.logits(h)
