"""Whether an answer is what the model itself would say."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch

from dlmcache_cuda.decoding import decode
from dlmcache_cuda.model import Llada


def is_greedy(
    model: Llada,
    pairs: Sequence[tuple[Any, Any]],
    *,
    cfg_scale: float = 0.0,
    batch_size: int | None = None,
    progress: Callable[[int], None] | None = None,
) -> list[bool]:
    """Whether greedy decoding, told how many tokens the answer has, gives exactly these.

    As LLaDA's evaluation defines it: as many masks as the answer has tokens follow the prompt,
    each step commits the surest prediction, and no step is spared at an end token. One forward
    per token of the answer.

    Args:
        pairs, cfg_scale: as in :func:`log_likelihood`; prompts have one token at least.
        batch_size: sequences in flight, see :func:`dlmcache_cuda.decode`.
        progress: called with a number of pairs when they are done.
    """
    by_length: dict[int, list[int]] = defaultdict(list)
    for index, (_, answer) in enumerate(pairs):
        by_length[len(answer)].append(index)
    greedy = [True] * len(pairs)  # nothing is what anybody would say with no tokens
    for length, indices in sorted(by_length.items(), reverse=True):
        if length:
            out = decode(
                model,
                [torch.as_tensor(pairs[index][0], dtype=torch.int64) for index in indices],
                gen_length=length,
                remasking="low_confidence",
                cfg_scale=cfg_scale,
                stop_at_eos=False,
                batch_size=batch_size,
                seed=0,
            )
            for index, ids in zip(indices, out.ids, strict=True):
                greedy[index] = ids.tolist() == torch.as_tensor(pairs[index][1]).tolist()
        if progress is not None:
            progress(len(indices))
    return greedy
