"""The operators: typed functions over ``torch.ops.dlmcache.*``, one module per family."""

from dlmcache_cuda.ops.attention import attention_rows as attention_rows
from dlmcache_cuda.ops.norm import rms_norm as rms_norm
