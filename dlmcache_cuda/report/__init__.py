"""Pages about what a decoding did."""

from dlmcache_cuda.report.page import trace_page as trace_page
