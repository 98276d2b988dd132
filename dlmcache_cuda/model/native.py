"""Types in which a device computes as fast as it can."""

from __future__ import annotations

import torch

from dlmcache_cuda.model.weights import DTYPES

# As torch.cpu.get_capabilities() calls them: x86's two sets of instructions, and Arm's.
_BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16", "arm_bf16")


def native_dtypes(device: torch.device) -> tuple[torch.dtype, ...]:
    """float32, and what the device has instructions for."""
    if device.type != "cpu":
        return DTYPES
    capabilities = getattr(torch.cpu, "get_capabilities", dict)()
    has_bfloat16 = any(capabilities.get(name, False) for name in _BFLOAT16)
    return (torch.float32, torch.bfloat16) if has_bfloat16 else (torch.float32,)
