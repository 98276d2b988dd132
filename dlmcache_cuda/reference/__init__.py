"""Plain torch twins of the operators: same names and signatures, written to be read."""

from dlmcache_cuda.reference.attention import attention_rows as attention_rows
from dlmcache_cuda.reference.norm import rms_norm as rms_norm
