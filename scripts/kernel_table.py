"""Compares every kernel's registers and shared memory with docs/kernels.tsv, or writes that anew.

    python scripts/kernel_table.py            # compares; status 1 and a list when something differs
    python scripts/kernel_table.py --write    # after a change that is meant to change the table

Reads what ptxas reported when the extension was built; sources that were changed since, or not
built for every architecture, are compiled. Needs nvcc and c++filt, no GPU. docs/kernels.md explains
the columns.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TABLE = ROOT / "docs/kernels.tsv"
SOURCES = sorted((ROOT / "csrc/cuda").glob("*.cu"))
ARCHS = ("80", "90", "100")  # what setup.py compiles for; sm_86 and sm_89 run the code of sm_80


@dataclass(frozen=True, slots=True)
class Resources:
    """What ptxas says of one kernel on one architecture."""

    registers: int
    shared_bytes: int  # static; dynamic shared memory is the launcher's
    spill_bytes: int


Table = dict[str, dict[str, Resources]]  # kernel, then architecture


def find_nvcc() -> str | None:
    """The compiler of CUDA_HOME, of /usr/local/cuda, or on the path."""
    for home in (os.environ.get("CUDA_HOME"), "/usr/local/cuda"):
        if home and Path(home, "bin/nvcc").exists():
            return str(Path(home, "bin/nvcc"))
    return shutil.which("nvcc")


def built_report(source: Path, build: Path = ROOT / "build") -> str | None:
    """What nvcc said when setup.py last compiled the source; None where that tells nothing of it
    as it is now, or not of all ARCHS."""
    headers = [path for path in (ROOT / "csrc").rglob("*") if path.suffix in (".h", ".cuh")]
    changed = max(path.stat().st_mtime for path in [source, ROOT / "setup.py", *headers])
    for log in build.glob(f"temp.*/objects/{source.stem}.cuda.log"):
        text = log.read_text()
        if log.stat().st_mtime > changed and all(f"for 'sm_{arch}'" in text for arch in ARCHS):
            return text
    return None


def compile_source(nvcc: str, source: Path, out: Path) -> subprocess.CompletedProcess:
    """One pass of nvcc over one source for all of ARCHS; stdout has ptxas' report and all else."""
    command = [nvcc, "-O3", "-std=c++20", "-lineinfo", "--extended-lambda", "-Xptxas=-v"]
    command += [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in ARCHS]
    command += [f"-I{ROOT / 'csrc'}", f"-I{ROOT / 'csrc/include'}"]
    command += ["-fatbin", str(source), "-o", str(out / f"{source.stem}.fatbin")]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def reports(nvcc: str) -> dict[str, subprocess.CompletedProcess]:
    """What nvcc says of every source: of the build where that is up to date, else compiled now, two
    at a time."""
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(2) as pool:

        def report(source: Path) -> subprocess.CompletedProcess:
            built = built_report(source)
            if built is not None:
                return subprocess.CompletedProcess(["setup.py"], 0, stdout=built)
            return compile_source(nvcc, source, Path(folder))

        results = pool.map(report, SOURCES)
        return {source.name: result for source, result in zip(SOURCES, results, strict=True)}


def demangle(names: list[str]) -> list[str]:
    """C++ names without namespace, return type and parameters: attention_kernel<float, 64, 8>."""
    text = subprocess.run(
        ["c++filt"], input="\n".join(names), capture_output=True, text=True, check=True
    ).stdout
    short = []
    for name in text.splitlines():
        name = re.sub(
            r"\(([a-z ]+)\)(?=[-\w])", "", name
        )  # template arguments carry a cast: (int)64
        name = name.removeprefix("void ").split("(", 1)[0].replace("dlmcache::", "")
        short.append(name.removeprefix("cuda::"))
    return short


def parse_report(report: str) -> Table:
    """The kernels in what nvcc -Xptxas=-v printed."""
    entry = re.compile(
        r"Compiling entry function '(\w+)' for 'sm_(\w+)'\n"
        r".*\n"  # Function properties for ...
        r"\s+\d+ bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads\n"
        r".*?Used (\d+) registers(.*)"
    )
    found = entry.findall(report)
    if len(found) != report.count("Compiling entry function"):
        raise RuntimeError(
            "ptxas reports its kernels in a form that scripts/kernel_table.py does not know"
        )
    table: Table = {}
    for name, (_, arch, stores, loads, registers, rest) in zip(
        demangle([fields[0] for fields in found]), found, strict=True
    ):
        shared = re.search(r"(\d+) bytes smem", rest)
        row = table.setdefault(name, {})
        if arch in row:
            raise RuntimeError(f"two kernels are called {name}")
        row[arch] = Resources(
            int(registers), int(shared.group(1)) if shared else 0, int(stores) + int(loads)
        )
    return table


def table_text(table: Mapping[str, Mapping[str, Resources]]) -> str:
    """The committed form: a kernel a line."""
    lines = ["\t".join(["kernel", *(f"sm_{arch}" for arch in ARCHS), "shared"])]
    for name in sorted(table):
        row = [table[name][arch] for arch in ARCHS]
        shared = {resources.shared_bytes for resources in row}
        cells = [str(resources.registers) for resources in row]
        lines.append("\t".join([name, *cells, "/".join(str(number) for number in sorted(shared))]))
    return "\n".join(lines) + "\n"


def differences(found: Mapping[str, Mapping[str, Resources]], committed: str) -> list[str]:
    """What is wrong about the kernels found. Fewer registers than committed are welcome."""
    header, *lines = [line.split("\t") for line in committed.splitlines()]
    if header != table_text({}).splitlines()[0].split("\t"):
        return [f"the table has the columns {', '.join(header)}"]
    wanted = {name: (cells[:-1], cells[-1]) for name, *cells in lines}
    wrong = [f"{name} is not in the table" for name in found if name not in wanted]
    wrong += [f"{name} is in the table and in no source" for name in wanted if name not in found]
    for name in sorted(found.keys() & wanted.keys()):
        limits, shared = wanted[name]
        for arch, limit in zip(ARCHS, limits, strict=True):
            registers = found[name][arch].registers
            if registers > int(limit):
                wrong.append(f"{name} takes {registers} registers on sm_{arch}, not {limit}")
        now = table_text({name: found[name]}).splitlines()[1].split("\t")[-1]
        if now != shared:
            wrong.append(f"{name} takes {now} bytes of static shared memory, not {shared}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--write", action="store_true", help="write docs/kernels.tsv")
    write = parser.parse_args().write
    nvcc = find_nvcc()
    if nvcc is None:
        sys.exit("kernel_table: no nvcc: set CUDA_HOME to a toolkit, or put nvcc on PATH")
    table: Table = {}
    for name, result in reports(nvcc).items():
        if result.returncode != 0:
            sys.exit(f"kernel_table: nvcc does not compile {name}\n{result.stdout}")
        table.update(parse_report(result.stdout))
    if write:
        TABLE.write_text(table_text(table))
        print(f"{TABLE.relative_to(ROOT)}: {len(table)} kernels")
        return 0
    wrong = differences(table, TABLE.read_text())
    print("\n".join(wrong) or f"{len(table)} kernels are as {TABLE.relative_to(ROOT)} says")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
