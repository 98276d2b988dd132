"""How many tokens each step of a block commits."""

from __future__ import annotations


def num_transfer_tokens(num_masks: int, steps: int, step: int) -> int:
    """Commits of step ``step`` when ``num_masks`` are spread over ``steps`` steps, the remainder
    on the first ones.

    Source: LLaDA reference code, ``get_num_transfer_tokens``.
    """
    base, remainder = divmod(num_masks, steps)
    return base + (step < remainder)
