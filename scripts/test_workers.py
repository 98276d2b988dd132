"""Prints the options with which pytest shares its tests among processes: `test_workers.py COUNT`.

Nothing without pytest-xdist, and nothing on a GPU, whose memory they would share.
"""

from __future__ import annotations

import importlib.util
import os
import sys

import torch

count = int(sys.argv[1])
on_gpu = torch.cuda.is_available() and os.environ.get("DLMCACHE_TEST_DEVICE") != "cpu"
if count > 1 and not on_gpu and importlib.util.find_spec("xdist") is not None:
    print(f"--numprocesses {count} --dist worksteal")
