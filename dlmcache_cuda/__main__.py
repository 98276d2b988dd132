"""``python -m dlmcache_cuda``: the same as the console script ``dlmcache``."""

import sys

from dlmcache_cuda.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
