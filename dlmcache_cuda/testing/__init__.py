"""Helpers of tests and benchmarks; nothing in the package imports this."""
