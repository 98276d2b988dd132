"""Benchmarks of operators and of a GPU: docs/benchmarks.md. Decodings: ``dlmcache bench``."""
