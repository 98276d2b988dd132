"""lm-eval's own command line, with the model ``dlmcache``.

python -m dlmcache_cuda.evaluation run --model dlmcache --model_args pretrained=... --tasks ...
"""

from lm_eval.__main__ import cli_evaluate

import dlmcache_cuda.evaluation  # noqa: F401  (registers the model)

if __name__ == "__main__":
    cli_evaluate()
