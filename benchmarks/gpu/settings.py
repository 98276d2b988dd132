"""How every policy decodes a model whose weights are random.

Random weights have neither real confidences nor real drift. So commits have a fixed number per
step, several of them standing for a threshold, and refreshes that drift would trigger come every
``REFRESH_STEPS`` steps, which updates about a tenth of the layers. Drift is tested all the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.gpu.options import Options
from dlmcache_cuda import available_policies
from dlmcache_cuda.benchmark.fixed_rate import REFRESH_STEPS, fixed_rate
from dlmcache_cuda.policies import PolicyConfig

BLOCK_LENGTH = 32
STATED = (
    f"random weights: commits per step are fixed (4 stand for a threshold), elastic and composed "
    f"refresh every {REFRESH_STEPS} steps whatever drifts, and spa and composed project on random "
    "directions"
)


@dataclass(frozen=True, slots=True)
class Setting:
    cache: str
    batch: int
    prompt: int
    gen_length: int
    commits: int  # per step

    def __str__(self) -> str:
        return (
            f"{self.cache}, batch {self.batch}, prompt {self.prompt}, {self.gen_length} tokens, "
            f"{self.commits} per step"
        )


def config(cache: str) -> PolicyConfig:
    return available_policies()[cache].Config(**fixed_rate(cache, commits=4))


def settings(options: Options) -> Iterator[Setting]:
    """Cheapest first, so that what time allows is of use."""
    if options.quick:
        shapes = [(2, 24, 32, 4)]
    elif options.full:
        shapes = [
            (batch, prompt, length, commits)
            for batch in (1, 4, 16, 64)
            for prompt in (128, 900, 4000)
            for length in (256, 512)
            for commits in (4, 1)
        ]
    else:
        shapes = [(1, 900, 256, 4), (16, 900, 256, 4), (1, 900, 256, 1)]
    for shape in shapes:
        for cache in available_policies():
            yield Setting(cache, *shape)
