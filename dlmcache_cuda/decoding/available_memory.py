"""How much memory can still be had on a device."""

from __future__ import annotations

import os
from pathlib import Path

import torch

_CGROUP_V2 = Path("/sys/fs/cgroup")
_CGROUP_V1 = Path("/sys/fs/cgroup/memory")


def available_bytes(device: torch.device) -> int | None:
    """What an allocation could still get, or None where the system does not tell."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # Torch keeps what it freed, and gives that out first.
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    known = [size for size in (_machine(), _cgroup()) if size is not None]
    return min(known, default=None)


def _machine() -> int | None:
    """Free pages and those that the system can take back."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "MemAvailable":
                return int(value.split()[0]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return None


def _cgroup() -> int | None:
    """What the container's limit leaves. Pages of files that it holds can be taken back."""
    names = (
        (_CGROUP_V2, "memory.max", "memory.current", "inactive_file"),
        (_CGROUP_V1, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    )
    for folder, limit, usage, files in names:
        try:
            # "max" is no number: there is no limit.
            left = int((folder / limit).read_text()) - int((folder / usage).read_text())
            facts = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            return max(0, left + int(facts.get(files, 0)))
        except (OSError, ValueError):
            continue
    return None
