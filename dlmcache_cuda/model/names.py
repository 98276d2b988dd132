"""What the weights of a checkpoint are called and which shapes they have."""

from __future__ import annotations

from dataclasses import dataclass, replace

from dlmcache_cuda.model.config import LladaConfig


@dataclass(frozen=True, slots=True)
class WeightNames:
    """Names of one layout, without the prefix; a block's stand behind ``block.format(layer)``."""

    prefixes: tuple[str, ...]
    embedding: str
    final_norm: str
    head: str
    block: str
    attn_norm: str
    q: str
    k: str
    v: str
    attn_out: str
    ff_norm: str
    gate: str
    up: str
    down: str
    qkv_bias: tuple[str, str, str] | None = None
    """Biases of the query, key and value projections, in models that have them."""
    beside: tuple[str, ...] = ()
    """What the names of other parts of a checkpoint begin with, which are read elsewhere."""

    def strip(self, name: str) -> str:
        """``name`` without the prefix that the published variants put in front."""
        for prefix in self.prefixes:
            if name.startswith(prefix):
                return name[len(prefix) :]
        return name

    def shapes(self, config: LladaConfig) -> dict[str, tuple[int, ...]]:
        """Every weight of a model, with the prefix published checkpoints have, and its shape."""
        width, inner = config.d_model, config.mlp_hidden_size
        kv_width = config.n_kv_heads * config.head_dim
        shapes = {
            self.embedding: (config.embedding_size, width),
            self.final_norm: (width,),
        }
        if not config.weight_tying:
            shapes[self.head] = (config.embedding_size, width)
        for layer in range(config.n_layers):
            block = self.block.format(layer)
            shapes |= {
                block + self.attn_norm: (width,),
                block + self.q: (width, width),
                block + self.k: (kv_width, width),
                block + self.v: (kv_width, width),
                block + self.attn_out: (width, width),
                block + self.ff_norm: (width,),
                block + self.gate: (inner, width),
                block + self.up: (inner, width),
                block + self.down: (width, inner),
            }
            if self.qkv_bias is not None:
                for bias, size in zip(self.qkv_bias, (width, kv_width, kv_width), strict=True):
                    shapes[block + bias] = (size,)
        return shapes


# LLaDA calls the gate ff_proj and both the down projection and the head ff_out.
LLADA_NAMES = WeightNames(
    prefixes=("model.transformer.", "transformer.", "model."),
    embedding="wte.weight",
    final_norm="ln_f.weight",
    head="ff_out.weight",
    block="blocks.{}.",
    attn_norm="attn_norm.weight",
    q="q_proj.weight",
    k="k_proj.weight",
    v="v_proj.weight",
    attn_out="attn_out.weight",
    ff_norm="ff_norm.weight",
    gate="ff_proj.weight",
    up="up_proj.weight",
    down="ff_out.weight",
)
# iLLaDA is published under the names of stock Llama.
ILLADA_NAMES = WeightNames(
    prefixes=("model.",),
    embedding="embed_tokens.weight",
    final_norm="norm.weight",
    head="lm_head.weight",
    block="layers.{}.",
    attn_norm="input_layernorm.weight",
    q="self_attn.q_proj.weight",
    k="self_attn.k_proj.weight",
    v="self_attn.v_proj.weight",
    attn_out="self_attn.o_proj.weight",
    ff_norm="post_attention_layernorm.weight",
    gate="mlp.gate_proj.weight",
    up="mlp.up_proj.weight",
    down="mlp.down_proj.weight",
)
# Dream under those of stock Qwen2, which are Llama's and three biases.
DREAM_NAMES = replace(
    ILLADA_NAMES,
    qkv_bias=("self_attn.q_proj.bias", "self_attn.k_proj.bias", "self_attn.v_proj.bias"),
)
# LLaDA-V's language tower, too; beside it the checkpoint has what dlmcache_cuda.vision reads.
LLADA_V_NAMES = replace(
    ILLADA_NAMES,
    beside=("vision_tower.", "vision_resampler.", "mm_projector.", "image_newline"),
)


def weight_names(config: LladaConfig) -> WeightNames:
    """The layout of a checkpoint of this ``model_type``."""
    return {
        "llada": LLADA_NAMES,
        "illada": ILLADA_NAMES,
        "llava_llada": LLADA_V_NAMES,
        "Dream": DREAM_NAMES,
    }[config.model_type]
