"""The test-suite on the device, several files at a time."""

from __future__ import annotations

import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.gpu.context import Context
from benchmarks.gpu.key import ROOT
from benchmarks.gpu.options import Options

# It compiles every kernel for three architectures, which the build has done for this one.
LEFT_OUT = ("test_cuda_build.py",)
QUICK = ("ops/test_norm.py",)
_POOL = ThreadPoolExecutor(max(1, min(8, (os.cpu_count() or 2) // 2)))
_started: dict[Path, Future] = {}


def cases(options: Options) -> dict[str, Path]:
    folder = ROOT / "python_tests"
    found = sorted(folder.rglob("test_*.py"), key=lambda path: -path.stat().st_size)
    names = {str(path.relative_to(folder)): path for path in found if path.name not in LEFT_OUT}
    return {name: names[name] for name in QUICK} if options.quick else names


def measure(context: Context, case: Path) -> dict[str, Any]:
    # The first case starts them all; cases are then reported in order.
    if not _started:
        for path in context.pending:
            _started[path] = _POOL.submit(_run, path, context.options)
    return _started[case].result()


def _run(path: Path, options: Options) -> dict[str, Any]:
    if options.time_is_up:
        return {"failed": "not begun: time is up"}
    name = str(path.relative_to(ROOT / "python_tests")).replace("/", "-").removesuffix(".py")
    junit = options.out / "junit" / f"{name}.xml"
    junit.parent.mkdir(parents=True, exist_ok=True)
    junit.unlink(missing_ok=True)
    call = [sys.executable, "-m", "pytest", "-q", str(path), f"--junit-xml={junit}"]
    environment = os.environ | {"DLMCACHE_TEST_DEVICE": options.device, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        call, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    tail = "\n".join(done.stdout.splitlines()[-15:])
    if not junit.exists():
        return {"failed": f"pytest wrote no results: {tail}\n{done.stderr[-500:]}"}
    counts = ET.parse(junit).getroot()[0].attrib
    found = {name: int(counts[name]) for name in ("tests", "failures", "errors")}
    found["not_run"] = int(counts["skipped"])
    found["seconds"] = float(counts["time"])
    return found | ({"failed": tail} if done.returncode else {})


def table(cases: Mapping[str, dict[str, Any]]) -> str:
    lines = ["| file | tests | skipped | s |", "|---|---|---|---|"]
    for name, case in cases.items():
        lines.append(f"| {name} | {case['tests']} | {case['not_run']} | {case['seconds']:.1f} |")
    return "\n".join(lines)


def headline(cases: Mapping[str, dict[str, Any]]) -> list[dict[str, Any]]:
    passed = sum(case["tests"] - case["not_run"] for case in cases.values())
    return [{"what": "tests passed", "value": passed, "unit": "tests"}]
