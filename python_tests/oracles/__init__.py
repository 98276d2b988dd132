"""Slow oracles: direct readings of the published methods with plain full-size tensors.

Nothing here uses an operator, a row list, a policy, a model or the loop of ``dlmcache_cuda``.
"""
