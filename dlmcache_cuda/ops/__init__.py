"""The operators: typed functions over ``torch.ops.dlmcache.*``, one module per family."""

from dlmcache_cuda.ops.commit import commit_ as commit_
from dlmcache_cuda.ops.norm import rms_norm as rms_norm
from dlmcache_cuda.ops.row_list import build_rows as build_rows
from dlmcache_cuda.ops.row_list import find_rows as find_rows
