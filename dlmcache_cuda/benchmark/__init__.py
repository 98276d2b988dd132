"""What decoding costs, measured: ``dlmcache bench``, docs/benchmarks.md."""
