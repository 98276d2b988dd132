"""One part of the GPU check: ``python -m benchmarks.gpu PART``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks.gpu.key import key
from benchmarks.gpu.options import DEVICES, SIZES, Options
from benchmarks.gpu.report import write_report

PARTS = ("suite", "exercise", "soak", "copy", "operators", "forward", "decode")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("part", choices=("key", "header", "report", *PARTS))
    parser.add_argument("--device", choices=DEVICES, default="cuda")
    parser.add_argument("--size", choices=SIZES, default="8b", help="of the random model")
    parser.add_argument("--quick", action="store_true", help="a dry run: few cases")
    parser.add_argument("--full", action="store_true", help="all cases, whatever they take")
    parser.add_argument("--out", type=Path, default=Path("build/gpu_check"))
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no case later")
    asked = parser.parse_args()
    if asked.part == "key":
        print(key(asked.device))
        return 0
    if asked.part == "report":
        return write_report(asked.out)
    # Needs the extension; what is above does not.
    if asked.part == "header":
        from benchmarks.gpu.header import header, text

        print(text(header(asked.device)))
        return 0
    from benchmarks.gpu.parts import run_part

    options = Options(asked.device, asked.size, asked.out, asked.quick, asked.full, asked.seconds)
    return run_part(asked.part, options)


if __name__ == "__main__":
    sys.exit(main())
