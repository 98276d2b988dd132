"""Canvases with holes, for tests of infilling."""

from __future__ import annotations

import random

from .checkpoint import EOS, EOT, MASK


def random_region(
    seed: int, length: int, given: float, mask: int = MASK, ends: tuple[int, ...] = (EOS, EOT)
) -> list[int]:
    """What stands behind a prompt: a mask first, then runs of given text and of masks.

    ``given`` is about the share of given text; end tokens are among it.
    """
    draw = random.Random(seed)
    region = [mask]
    while len(region) < length:
        run = draw.randint(1, 5)
        if draw.random() < given:
            region += [draw.choice((*range(mask), *ends)) for _ in range(run)]
        else:
            region += [mask] * run
    return region[:length]
