"""How many tokens each step of a block commits."""

from __future__ import annotations

import functools

import torch


def num_transfer_tokens(num_masks: int, steps: int, step: int) -> int:
    """Commits of step ``step`` when ``num_masks`` are spread over ``steps`` steps, the remainder
    on the first ones.

    Source: LLaDA reference code, ``get_num_transfer_tokens``.
    """
    base, remainder = divmod(num_masks, steps)
    return base + (step < remainder)


# Where Dream's time ends.
DREAM_EPSILON = 1e-3


@functools.lru_cache(maxsize=64)
def _shares(steps: int) -> tuple[float, ...]:
    # In fp32 as Dream computes them: the floor below depends on the last bit.
    times = torch.linspace(1, DREAM_EPSILON, steps + 1, dtype=torch.float32)
    return tuple((1 - times[1:] / times[:-1]).tolist())


def transfer_share(steps: int, step: int) -> float:
    """The share of the time left at step ``step`` that the step takes: 1 at the last one.

    Times run evenly from 1 to 1e-3 over ``steps`` steps.
    """
    return 1.0 if step >= steps - 1 else _shares(steps)[step]


def num_dream_tokens(num_masks: int, steps: int, step: int) -> int:
    """Commits of step ``step`` when ``num_masks`` masks are left, rounded down.

    Source: Dream's ``generation_utils.py``, ``_sample``.
    """
    if step >= steps - 1:
        return num_masks
    return int(torch.tensor(num_masks * _shares(steps)[step], dtype=torch.float32))
