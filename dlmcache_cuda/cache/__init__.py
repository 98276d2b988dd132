"""Storage of a decoding run: rows to compute and the K/V cache. No decisions are taken here."""

from dlmcache_cuda.cache.kv_cache import KVCache as KVCache
from dlmcache_cuda.cache.row_list import RowList as RowList
