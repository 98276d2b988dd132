"""Which tokens are the mask and the ends of a text: from the user, the config or a table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dlmcache_cuda.model.config import LladaConfig


@dataclass(frozen=True, slots=True)
class TokenIds:
    """The ids with a meaning of their own."""

    mask: int
    end: tuple[int, ...]
    """A text ends at the first of any of these."""
    pad: int
    """Stands behind the end of a text: the config's, else the first end id."""
    suppress: tuple[int, ...] = ()
    """Never predicted unless decoding is told otherwise."""


@dataclass(frozen=True, slots=True)
class KnownCheckpoints:
    """Ids of published checkpoints whose config leaves some out, and the facts that tell them."""

    names: str
    model_types: tuple[str, ...]
    vocab_size: int
    n_layers: int
    d_model: int
    mask: int
    end: tuple[int, ...]
    suppress: tuple[int, ...] = ()


KNOWN_CHECKPOINTS = (
    # Their config names 126081 <|endoftext|> (end and padding) and 126336 <|mdm_mask|>. Chat
    # answers end with 126348 <|eot_id|>, which only tokenizer.json and LLaDA's generate.py know.
    KnownCheckpoints(
        "LLaDA-8B-Base, LLaDA-8B-Instruct, LLaDA-1.5", ("llada",), 126464, 32, 4096,
        mask=126336, end=(126081, 126348),
    ),
    # LLaDA-V: LLaDA's tokenizer. Its sampler never predicts end of text, beginning of text and the
    # two header tokens, so that an answer ends with <|eot_id|>.
    KnownCheckpoints(
        "LLaDA-V", ("llava_llada",), 126464, 32, 4096,
        mask=126336, end=(126348, 126081), suppress=(126081, 126080, 126346, 126347),
    ),
    # No mask_token_id in the config: 5 is <[MASK]> in its tokenizer.json and mask_id in LLaDA's
    # generate.py. The config has the end id. Copies in LLaDA's own layout call themselves llada.
    KnownCheckpoints(
        "iLLaDA-8B-Base, iLLaDA-8B-Instruct", ("illada", "llada"), 155136, 32, 4096,
        mask=5, end=(),
    ),
    # Their config names 151643 <|endoftext|> (end and padding) and 151666 <|mask|>; chat answers
    # end with 151645 <|im_end|>, which is the tokenizer's end of text.
    KnownCheckpoints(
        "Dream-v0-Base-7B, Dream-v0-Instruct-7B, Dream-Coder", ("Dream",), 152064, 28, 3584,
        mask=151666, end=(151643, 151645),
    ),
)  # fmt: skip


def resolve_token_ids(
    config: LladaConfig,
    source: str,
    mask_token_id: int | None = None,
    end_token_ids: Iterable[int] | None = None,
) -> TokenIds:
    """The ids of a checkpoint: from the user, else the config, else the table.

    End ids of the config and of the table are joined. An empty ``end_token_ids`` means that
    nothing ends a text.

    Raises:
        ValueError: an id that nobody knows (there is no default), lies outside the vocabulary, or
            is mask and end at once.
    """
    known = _known(config)
    mask = mask_token_id
    if mask is None:
        mask = config.mask_token_id
    if mask is None and known is not None:
        mask = known.mask
    if mask is None:
        raise ValueError(_unknown(config, source, "mask_token_id", "mask_token_id=ID"))
    if end_token_ids is None:
        end = config.eos_token_ids + (known.end if known else ())
        if not end:
            raise ValueError(_unknown(config, source, "eos_token_id", "end_token_ids=[ID, ...]"))
    else:
        if isinstance(end_token_ids, (str, bytes)) or not isinstance(end_token_ids, Iterable):
            raise TypeError(
                f"{source}: end_token_ids must be a list of token ids, got {end_token_ids!r}"
            )
        end = tuple(end_token_ids)
    suppress = known.suppress if known else ()
    # What is never predicted ends no text: the first id is to be one that does.
    end = tuple(sorted(dict.fromkeys(end), key=lambda token: token in suppress))
    pad = config.pad_token_id
    if pad is None:
        pad = end[0] if end else mask  # nothing ends a text, so nothing is padded
    ends = [("end token id", token) for token in end]
    for name, token in [("mask_token_id", mask), *ends, ("pad_token_id", pad)]:
        if isinstance(token, bool) or not isinstance(token, int):
            raise ValueError(f"{source}: {name} must be an integer, got {token!r}")
        if not 0 <= token < config.embedding_size:
            raise ValueError(
                f"{source}: {name} {token} lies outside the vocabulary of {config.embedding_size}"
            )
    if mask in end:
        raise ValueError(f"{source}: {mask} is given as the mask and as an end of text")
    return TokenIds(mask, end, pad, suppress)


def _known(config: LladaConfig) -> KnownCheckpoints | None:
    for known in KNOWN_CHECKPOINTS:
        sizes = (known.vocab_size, known.n_layers, known.d_model)
        same_sizes = sizes == (config.vocab_size, config.n_layers, config.d_model)
        if same_sizes and config.model_type in known.model_types:
            return known
    return None


def _unknown(config: LladaConfig, source: str, key: str, argument: str) -> str:
    return (
        f"{source}: {key} is not known: the config has none, and the table of known checkpoints "
        f"has no {config.model_type} with a vocabulary of {config.vocab_size}, {config.n_layers} "
        f"layers and width {config.d_model}. Pass load(..., {argument})"
    )
