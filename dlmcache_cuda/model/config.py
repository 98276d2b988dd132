"""The facts of a checkpoint's config.json, checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlmcache_cuda.model.json_file import read_object

# What a setting may be; None and absence are fine too. Anything else is another architecture, which
# is refused by name instead of decoding nonsense.
_LLADA_SETTINGS: dict[str, tuple[Any, ...]] = {
    "block_type": ("llama",),
    "activation_type": ("silu",),
    "layer_norm_type": ("rms",),
    "layer_norm_with_affine": (True,),
    "attention_layer_norm": (False,),
    "input_emb_norm": (False,),
    "include_bias": (False,),
    "include_qkv_bias": (False,),
    "bias_for_layer_norm": (False,),
    "alibi": (False,),
    "rope": (True,),
    "rope_full_precision": (True,),
    "rope_scaling": (),
    "scale_logits": (False,),
    "clip_qkv": (),
    "num_experts": (0,),
    "quantization_config": (),
}
_ILLADA_SETTINGS: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "layer_norm_eps": (),
    "rope_scaling": ({"rope_type": "default"}, {"type": "default"}),
    "num_experts": (0,),
    "quantization_config": (),
}
_DREAM_SETTINGS: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("silu",),
    "use_sliding_window": (False,),
    "use_mrope": (False,),
    "rope_scaling": ({"rope_type": "default"}, {"type": "default"}),
    "num_experts": (0,),
    "quantization_config": (),
}
# Our name (LLaDA's own) -> the key in a config that is written in the words of Llama and Qwen2.
_LLAMA_KEYS = {
    "d_model": "hidden_size",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
    "n_kv_heads": "num_key_value_heads",
    "mlp_hidden_size": "intermediate_size",
    "max_sequence_length": "max_position_embeddings",
    "weight_tying": "tie_word_embeddings",
}
_SETTINGS = {
    "llada": _LLADA_SETTINGS,
    "illada": _ILLADA_SETTINGS,
    "llava_llada": _ILLADA_SETTINGS,
    "Dream": _DREAM_SETTINGS,
}
SUPPORTED_MODEL_TYPES = tuple(_SETTINGS)


@dataclass(frozen=True, slots=True)
class LladaConfig:
    """Sizes and constants of a model, LLaDA or Dream, under the names of LLaDA's own config.json.

    ``llada`` (LLaDA-8B-Base, LLaDA-8B-Instruct, LLaDA-1.5 and their descendants), ``illada``
    (iLLaDA-8B), ``llava_llada`` (LLaDA-V's language tower) and ``Dream`` (Dream-v0-Base-7B,
    Dream-v0-Instruct-7B, Dream-Coder) are one architecture: pre-norm blocks with RMSNorm, rotary
    embedding, grouped or plain attention without a mask, SwiGLU. Dream, a converted Qwen2, has
    biases on the query, key and value projections and predicts one position ahead; see
    :attr:`shift`.
    """

    model_type: str
    d_model: int
    n_layers: int
    n_heads: int
    n_kv_heads: int
    mlp_hidden_size: int
    vocab_size: int
    embedding_size: int
    """Rows of the embedding and of the head; at least ``vocab_size``."""
    rope_theta: float
    rms_norm_eps: float
    weight_tying: bool
    """True: the head is the embedding."""
    max_sequence_length: int
    """Longest canvas of the training."""
    mask_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    pad_token_id: int | None = None

    @property
    def head_dim(self) -> int:
        return self.d_model // self.n_heads

    @property
    def qkv_bias(self) -> bool:
        """Whether the query, key and value projections have biases."""
        return self.model_type == "Dream"

    @property
    def shift(self) -> int:
        """How many positions before a masked one the row stands that predicts its token.

        0: each row predicts its own token. 1 (Dream, which was an autoregressive model first): row
        ``p - 1`` predicts the token at position ``p``.
        """
        return 1 if self.model_type == "Dream" else 0

    @classmethod
    def from_file(cls, path: Path) -> LladaConfig:
        """Read ``config.json``; see :meth:`from_dict`."""
        return cls.from_dict(read_object(path), str(path))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], source: str = "config") -> LladaConfig:
        """Read a published config.

        Args:
            data: content of a LLaDA, iLLaDA, LLaDA-V or Dream ``config.json``. A switch that is
                absent has the value of the published models; sizes have no default.
            source: stands at the head of every error message.

        Raises:
            ValueError: an unknown ``model_type``, missing keys, sizes that do not fit together, or
                a setting that is not implemented; each is named with its value.
        """
        model_type = data.get("model_type")
        if model_type not in SUPPORTED_MODEL_TYPES:
            raise ValueError(
                f"{source}: model_type {model_type!r} is not supported; "
                f"supported are {', '.join(SUPPORTED_MODEL_TYPES)}"
            )
        _refuse_other_settings(data, _SETTINGS[model_type], source)
        in_llama_words = model_type != "llada"
        names = _LLAMA_KEYS if in_llama_words else {}

        def get(name: str) -> Any:
            return data.get(names.get(name, name))

        required = ["d_model", "n_layers", "n_heads", "vocab_size", "max_sequence_length"]
        required += ["rope_theta", "rms_norm_eps"]
        if in_llama_words or data.get("mlp_ratio") is None:
            required.append("mlp_hidden_size")
        missing = [names.get(name, name) for name in required if get(name) is None]
        if missing:
            raise ValueError(f"{source}: missing {', '.join(missing)}")

        def size(name: str, default: int | None = None, most: int = 2**31 - 1) -> int:
            value = default if get(name) is None else get(name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"{source}: {names.get(name, name)} must be a positive integer, got {value!r}"
                )
            if value > most:
                raise ValueError(
                    f"{source}: {names.get(name, name)} must be at most {most}, got {value}"
                )
            return value

        def positive(name: str) -> float:
            value = get(name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise ValueError(
                    f"{source}: {names.get(name, name)} must be a positive number, got {value!r}"
                )
            return float(value)

        width, heads = size("d_model"), size("n_heads")
        # LLaDA's rules for what may be left out: ModelConfig in its configuration_llada.py.
        kv_heads = size("n_kv_heads", 1 if data.get("multi_query_attention") else heads)
        if get("mlp_hidden_size") is None:
            mlp_hidden_size = size("mlp_ratio") * width
        else:
            mlp_hidden_size = size("mlp_hidden_size")
        config = cls(
            model_type=model_type,
            d_model=width,
            n_layers=size("n_layers", most=_MOST_LAYERS),
            n_heads=heads,
            n_kv_heads=kv_heads,
            mlp_hidden_size=mlp_hidden_size,
            vocab_size=size("vocab_size"),
            embedding_size=size("embedding_size", size("vocab_size")),
            rope_theta=positive("rope_theta"),
            rms_norm_eps=positive("rms_norm_eps"),
            weight_tying=bool(get("weight_tying")),
            max_sequence_length=size("max_sequence_length"),
            mask_token_id=_token_id(data, "mask_token_id", source),
            eos_token_ids=_token_ids(data, "eos_token_id", source),
            pad_token_id=_token_id(data, "pad_token_id", source),
        )
        config._check_sizes(source, data.get("head_dim") if in_llama_words else None)
        return config

    def _check_sizes(self, source: str, head_dim: int | None) -> None:
        if self.d_model % self.n_heads:
            raise ValueError(
                f"{source}: the width {self.d_model} is not a multiple of {self.n_heads} heads"
            )
        if self.head_dim % 2:
            raise ValueError(
                f"{source}: the head size {self.head_dim} (width {self.d_model} / {self.n_heads} "
                "heads) must be even, rotary embedding turns pairs"
            )
        if head_dim is not None and head_dim != self.head_dim:
            raise ValueError(
                f"{source}: head_dim {head_dim} is not the width / heads = {self.head_dim}"
            )
        if self.n_heads % self.n_kv_heads:
            raise ValueError(
                f"{source}: {self.n_heads} heads are not a multiple of "
                f"{self.n_kv_heads} key-value heads"
            )
        if self.embedding_size < self.vocab_size:
            raise ValueError(
                f"{source}: embedding_size {self.embedding_size} is below "
                f"vocab_size {self.vocab_size}"
            )


# Names and shapes of all weights are listed before the first is read.
_MOST_LAYERS = 2**16


def _refuse_other_settings(
    data: Mapping[str, Any], settings: Mapping[str, tuple[Any, ...]], source: str
) -> None:
    for key, allowed in settings.items():
        value = data.get(key)
        if value is None or value in allowed:
            continue
        implemented = " or ".join(repr(choice) for choice in allowed) or "none"
        raise ValueError(f"{source}: {key} = {value!r} is not implemented, only {implemented}")


def _token_ids(data: Mapping[str, Any], key: str, source: str) -> tuple[int, ...]:
    value = data.get(key)
    ids = () if value is None else tuple(value) if isinstance(value, list) else (value,)
    for token in ids:
        if isinstance(token, bool) or not isinstance(token, int) or token < 0:
            raise ValueError(f"{source}: {key} must be a token id or a list of them, got {value!r}")
    return ids


def _token_id(data: Mapping[str, Any], key: str, source: str) -> int | None:
    ids = _token_ids(data, key, source)
    if len(ids) > 1 or data.get(key) == []:
        raise ValueError(f"{source}: {key} must be one token id, got {list(ids)}")
    return ids[0] if ids else None
