"""Evaluation with lm-eval (the extra ``eval``): importing this registers the model ``dlmcache``."""

try:
    import lm_eval as _lm_eval  # noqa: F401
except ModuleNotFoundError as error:
    raise ImportError(
        f"evaluation needs lm-eval ({error}): pip install 'dlmcache_cuda[eval]'"
    ) from error

from dlmcache_cuda.evaluation.harness import DlmcacheLM as DlmcacheLM
from dlmcache_cuda.evaluation.run import evaluate as evaluate
from dlmcache_cuda.evaluation.throughput import Throughput as Throughput
