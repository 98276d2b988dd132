"""Plain torch twins of the operators: same names and signatures, written to be read."""

from dlmcache_cuda.reference.commit import commit_ as commit_
from dlmcache_cuda.reference.norm import rms_norm as rms_norm
from dlmcache_cuda.reference.row_list import build_rows as build_rows
from dlmcache_cuda.reference.row_list import find_rows as find_rows
