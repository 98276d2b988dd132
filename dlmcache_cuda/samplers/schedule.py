"""How many tokens each step of a block commits."""

from __future__ import annotations


def num_transfer_tokens(num_masks: int, steps: int) -> list[int]:
    """Spreads ``num_masks`` commits over ``steps`` steps, the remainder on the first ones.

    Source: LLaDA reference code, ``get_num_transfer_tokens``.
    """
    base, remainder = divmod(num_masks, steps)
    return [base + (step < remainder) for step in range(steps)]
