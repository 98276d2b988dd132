"""Data parallelism over processes: one model per process, each with a share of the work.

A launcher (torchrun, accelerate) starts the processes and tells each its place through ``RANK``,
``LOCAL_RANK`` and ``WORLD_SIZE``. A program that works alone and under a launcher:

>>> with ProcessGroup() as group:
...     model = dlmcache_cuda.load(path, device=device_of_rank(group.ranks))
...     texts = dlmcache_cuda.decode(model, shard(prompts, group.ranks)).text
...     parts = group.gather(texts)
...     if group.ranks.is_main:
...         texts = unshard(parts)

What goes between processes is small (texts and numbers), so it always goes through gloo.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from dlmcache_cuda import _extension

T = TypeVar("T")

# One rank may need hours more than another for its share; gloo's own limit is half an hour.
TIMEOUT = timedelta(days=7)


@dataclass(frozen=True, slots=True)
class Ranks:
    """The place of this process among those that were started together."""

    rank: int = 0
    """Among all processes."""
    local_rank: int = 0
    """Among the processes of this machine: the number of its GPU."""
    world_size: int = 1
    """Number of processes."""

    @property
    def is_main(self) -> bool:
        """The one process that prints and writes."""
        return self.rank == 0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Ranks:
        """What the launcher said; without a launcher the only process.

        Args:
            environment: default: ``os.environ``.

        Raises:
            ValueError: a variable is not a number, out of range, or one of the three is missing.
        """
        environment = os.environ if environment is None else environment
        names = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
        given = {name: environment[name] for name in names if environment.get(name)}
        if not given:
            return cls()
        if given.keys() == {"LOCAL_RANK"}:
            # A process of its own that somebody gave a GPU by its number.
            return cls(local_rank=_number("LOCAL_RANK", given["LOCAL_RANK"], None))
        missing = [name for name in names if name not in given]
        if missing:
            raise ValueError(
                f"{', '.join(given)} of a launcher is set, but {', '.join(missing)} is not; start "
                "with torchrun or accelerate, or unset it"
            )
        world_size = _number("WORLD_SIZE", given["WORLD_SIZE"], None)
        if world_size < 1:
            raise ValueError(f"WORLD_SIZE must be an integer >= 1, got {world_size}")
        return cls(
            _number("RANK", given["RANK"], world_size),
            _number("LOCAL_RANK", given["LOCAL_RANK"], world_size),
            world_size,
        )


def _number(name: str, text: str, limit: int | None) -> int:
    try:
        value = int(text)
    except ValueError:
        raise ValueError(f"{name} must be an integer, got {text!r}") from None
    if value < 0 or (limit is not None and value >= limit):
        allowed = ">= 0" if limit is None else f"from 0 to {limit - 1} (WORLD_SIZE - 1)"
        raise ValueError(f"{name} must be an integer {allowed}, got {value}")
    return value


def device_of_rank(ranks: Ranks, device: str | None = None) -> str | None:
    """The ``device`` of :func:`dlmcache_cuda.load` for this process; a GPU that belongs to it
    becomes torch's current one too.

    Args:
        ranks: of this process.
        device: what the user asked for: ``cuda`` and None become the GPU ``cuda:LOCAL_RANK`` where
            several processes run; ``cpu`` stays.

    Raises:
        ValueError: several processes were to share ``cuda:N``, or the machine has fewer GPUs than
            processes.
    """
    if ranks.world_size == 1 and ranks.local_rank == 0:
        return device
    if device is None:
        device = "cuda" if _extension.has_cuda() and torch.cuda.is_available() else "cpu"
    if device == "cpu":
        return device
    if device != "cuda":
        raise ValueError(
            f"device must be cpu, cuda or None where a launcher started {ranks.world_size} "
            f"processes (each takes the GPU of its LOCAL_RANK), got {device!r}"
        )
    available = torch.cuda.device_count()
    if torch.cuda.is_available() and ranks.local_rank >= available:
        raise ValueError(
            f"LOCAL_RANK {ranks.local_rank} needs GPU {ranks.local_rank}, but torch sees "
            f"{available}; start at most {available} processes per machine"
        )
    if torch.cuda.is_available():
        torch.cuda.set_device(ranks.local_rank)
    return f"cuda:{ranks.local_rank}"


def shard(items: Sequence[T], ranks: Ranks) -> list[T]:
    """This process' share of the work: every ``world_size``-th item, so that shares are alike."""
    return list(items[ranks.rank :: ranks.world_size])


def unshard(parts: Sequence[Sequence[T]]) -> list[T]:
    """The items in their old order from all shares, in the order of the ranks."""
    total = sum(map(len, parts))
    return [parts[index % len(parts)][index // len(parts)] for index in range(total)]


class ProcessGroup:
    """The processes of a launcher, as a context; alone, every call answers at once.

    Attributes:
        ranks: of this process.

    Every process must make the same calls in the same order.
    """

    def __init__(self, ranks: Ranks | None = None) -> None:
        self.ranks = Ranks.from_environment() if ranks is None else ranks
        self._group: Any = None
        self._initialised = False

    def __enter__(self) -> ProcessGroup:
        if self.ranks.world_size > 1:
            if not dist.is_initialized():
                dist.init_process_group("gloo", timeout=TIMEOUT)
                self._initialised = True
            # A program may have a group of its own, such as NCCL's, which moves no objects.
            self._group = dist.new_group(backend="gloo", timeout=TIMEOUT)
        return self

    def __exit__(self, *error: object) -> None:
        if self._initialised:
            # After an error others may wait in a call that this process will never make: ending
            # the group tells them.
            dist.destroy_process_group()
        self._group, self._initialised = None, False

    def gather(self, value: T) -> list[T] | None:
        """The values of all processes in the order of their ranks, on rank 0; elsewhere None."""
        if self._group is None:
            return [value]
        values: list[Any] | None = [None] * self.ranks.world_size if self.ranks.is_main else None
        dist.gather_object(value, values, dst=0, group=self._group)
        return values

    def all_gather(self, value: T) -> list[T]:
        """The values of all processes in the order of their ranks, on every process."""
        if self._group is None:
            return [value]
        values: list[Any] = [None] * self.ranks.world_size
        dist.all_gather_object(values, value, group=self._group)
        return values

    def barrier(self) -> None:
        """Waits until every process is here."""
        if self._group is not None:
            dist.barrier(group=self._group)
