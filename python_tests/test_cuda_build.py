"""The CUDA sources compile with nvcc alone, for every architecture, without spilling registers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "csrc/cuda").glob("*.cu"))
ARCHS = ("80", "90", "100")


def find_nvcc() -> str | None:
    for home in (os.environ.get("CUDA_HOME"), "/usr/local/cuda"):
        if home and Path(home, "bin/nvcc").exists():
            return str(Path(home, "bin/nvcc"))
    return shutil.which("nvcc")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory) -> dict[str, subprocess.CompletedProcess]:
    """What nvcc says of every source; two at a time."""
    nvcc = find_nvcc()
    if nvcc is None:
        pytest.skip("no nvcc on this machine")
    out = tmp_path_factory.mktemp("cuda")
    flags = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in ARCHS]

    def start(source: Path) -> subprocess.Popen:
        command = [nvcc, "-O3", "-std=c++20", "--extended-lambda", "-Xptxas=-v", *flags]
        command += [f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'csrc/include'}"]
        command += ["-c", str(source), "-o", str(out / f"{source.stem}.o")]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    results = {}
    for first in range(0, len(SOURCES), 2):
        running = [(source, start(source)) for source in SOURCES[first : first + 2]]
        for source, process in running:
            text, _ = process.communicate()
            results[source.name] = subprocess.CompletedProcess([], process.returncode, text)
    return results


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("source", [source.name for source in SOURCES])
def test_compiles_for_every_architecture_without_spills(compiled, source):
    result = compiled[source]
    assert result.returncode == 0, result.stdout[-4000:]
    for arch in ARCHS:
        assert f"for 'sm_{arch}'" in result.stdout
    spills = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", result.stdout)
    assert spills and all(pair == ("0", "0") for pair in spills)
    assert "warning" not in result.stdout, result.stdout[-4000:]
