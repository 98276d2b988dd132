"""Checks and benchmarks on a GPU, one part at a time: ``python -m benchmarks.gpu --help``."""
