"""predict_memory(): the prediction for users, from the arguments of decode()."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from numbers import Integral

from dlmcache_cuda.decoding.arguments import check_batch_size, check_settings
from dlmcache_cuda.decoding.defaults import decode_defaults
from dlmcache_cuda.decoding.memory import MemoryPrediction, predict
from dlmcache_cuda.model import Llada
from dlmcache_cuda.policies import Cache, make_policy


def predict_memory(
    model: Llada,
    prompt_lengths: int | Sequence[int],
    *,
    gen_length: int = 128,
    block_length: int | None = None,
    batch_size: int | None = None,
    cache: Cache = "none",
    cfg_scale: float = 0.0,
    alg: str | None = None,
) -> MemoryPrediction:
    """What :func:`dlmcache_cuda.decode` would need; nothing is allocated.

    Buffers are exact. Temporaries are those of the widest step there can be, in which all slots
    compute their whole canvas; a run that never has it stays below. Libraries' own workspace on a
    GPU (cuBLAS), the CUDA context and what ``trace=True`` records are not counted.

    >>> print(dlmcache_cuda.predict_memory(model, 1024, gen_length=512, cache="elastic"))

    Args:
        model: from :func:`dlmcache_cuda.load`.
        prompt_lengths: tokens of each prompt, or of one.
        gen_length, block_length, batch_size, cache, cfg_scale, alg: as for ``decode``.

    Raises:
        TypeError, ValueError: an argument is not as above.
    """
    lengths = _lengths(prompt_lengths)
    policy = make_policy(cache)
    given = {
        "gen_length": gen_length,
        "block_length": block_length,
        "cfg_scale": cfg_scale,
        "alg": alg,
    }
    settings = check_settings(model, policy, **decode_defaults() | given)
    num_slots = check_batch_size(batch_size, len(lengths))
    canvases = [length + settings.gen_length for length in lengths]
    limit = model.config.max_sequence_length
    if max(canvases) > limit:
        raise ValueError(
            f"prompt_lengths and gen_length ({settings.gen_length}) make a canvas of "
            f"{max(canvases)}; max_sequence_length of this model is {limit}"
        )
    return predict(model, policy, settings, num_slots, lengths=canvases)


def _lengths(given: int | Sequence[int]) -> list[int]:
    listed = isinstance(given, Iterable) and not isinstance(given, (str, bytes, Mapping))
    lengths = list(given) if listed else [given]
    if not lengths:
        raise ValueError("prompt_lengths must not be empty")
    found = []
    for length in lengths:
        # A number of a tensor or an array is one as well.
        number = length.item() if hasattr(length, "item") else length
        if not isinstance(number, Integral) or isinstance(number, bool) or number < 1:
            raise ValueError(
                f"prompt_lengths must be an integer >= 1 or a list of them, got {given!r}"
            )
        found.append(int(number))
    return found
