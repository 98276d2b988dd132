"""What decode() takes when nothing is said, for callers that check settings like it does."""

from __future__ import annotations

import inspect
from typing import Any

from dlmcache_cuda.decoding.api import decode
from dlmcache_cuda.decoding.arguments import check_settings


def decode_defaults() -> dict[str, Any]:
    """What ``decode`` passes on when nothing is said."""
    taken = inspect.signature(check_settings).parameters
    parameters = inspect.signature(decode).parameters.items()
    return {
        name: parameter.default
        for name, parameter in parameters
        if name in taken and parameter.kind is parameter.KEYWORD_ONLY
    }
