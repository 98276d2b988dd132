"""nvcc compiles every kernel for every architecture, within what docs/kernels.tsv says."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def load_kernel_table():
    """scripts/kernel_table.py as a module: scripts is no package."""
    spec = importlib.util.spec_from_file_location("kernel_table", ROOT / "scripts/kernel_table.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


kernel_table = load_kernel_table()
SOURCES = [source.name for source in kernel_table.SOURCES]


@pytest.fixture(scope="module")
def compiled():
    """What nvcc says of every source."""
    nvcc = kernel_table.find_nvcc()
    if nvcc is None:
        pytest.skip("no nvcc on this machine")
    return kernel_table.reports(nvcc)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("source", SOURCES)
def test_compiles_for_every_architecture_without_spills(compiled, source):
    report = compiled[source].stdout
    assert compiled[source].returncode == 0, report[-4000:]
    assert "warning" not in report, report[-4000:]
    for arch in kernel_table.ARCHS:
        assert f"for 'sm_{arch}'" in report
    table = kernel_table.parse_report(report)
    spilled = {
        f"{kernel} on sm_{arch}": resources.spill_bytes
        for kernel, row in table.items()
        for arch, resources in row.items()
        if resources.spill_bytes
    }
    assert table and not spilled


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_registers_and_shared_memory_are_what_the_table_says(compiled):
    found = {}
    for result in compiled.values():
        found.update(kernel_table.parse_report(result.stdout))
    wrong = kernel_table.differences(found, kernel_table.TABLE.read_text())
    hint = "meant? python scripts/kernel_table.py --write"
    assert not wrong, "\n".join([*wrong, hint])


def test_a_report_of_another_state_is_not_taken(tmp_path):
    source = kernel_table.SOURCES[0]
    log = tmp_path / "temp.linux/objects" / f"{source.stem}.cuda.log"
    log.parent.mkdir(parents=True)
    assert kernel_table.built_report(source, tmp_path) is None
    whole = "".join(f"for 'sm_{arch}'\n" for arch in kernel_table.ARCHS)
    log.write_text(whole)
    assert kernel_table.built_report(source, tmp_path) == whole
    os.utime(log, (0, 0))
    assert kernel_table.built_report(source, tmp_path) is None, "older than the sources"
    log.write_text(f"for 'sm_{kernel_table.ARCHS[0]}'\n")
    assert kernel_table.built_report(source, tmp_path) is None, "of one architecture only"


MANGLED = "_ZN8dlmcache4cuda13commit_kernelILi256ELi2048EEEvNS_12CommitParamsE"
REPORT = f"""\
ptxas info    : Compiling entry function '{MANGLED}' for 'sm_ARCH'
ptxas info    : Function properties for {MANGLED}
    0 bytes stack frame, 8 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 16448 bytes smem
"""


@pytest.fixture
def report_table():
    if shutil.which("c++filt") is None:
        pytest.skip("no c++filt on this machine")
    report = "".join(REPORT.replace("ARCH", arch) for arch in kernel_table.ARCHS)
    return kernel_table.parse_report(report)


def test_reads_the_report_of_ptxas(report_table):
    resources = kernel_table.Resources(registers=40, shared_bytes=16448, spill_bytes=20)
    row = dict.fromkeys(kernel_table.ARCHS, resources)
    assert report_table == {"commit_kernel<256, 2048>": row}
    assert kernel_table.table_text(report_table).splitlines()[1:] == [
        "commit_kernel<256, 2048>\t40\t40\t40\t16448"
    ]


@pytest.mark.parametrize(
    "change, expected",
    [
        ({"registers": 41}, "takes 41 registers on sm_90, not 40"),
        ({"shared_bytes": 16}, "takes 16/16448 bytes of static shared memory, not 16448"),
        ({"registers": 39}, None),
    ],
)
def test_a_kernel_that_takes_more_than_the_table_says_is_named(report_table, change, expected):
    committed = kernel_table.table_text(report_table)
    row = report_table["commit_kernel<256, 2048>"]
    row["90"] = replace(row["90"], **change)
    wrong = kernel_table.differences(report_table, committed)
    assert wrong == ([] if expected is None else [f"commit_kernel<256, 2048> {expected}"])


def test_kernels_without_a_line_and_lines_without_a_kernel_are_named(report_table):
    committed = kernel_table.table_text(report_table)
    row = report_table.pop("commit_kernel<256, 2048>")
    assert kernel_table.differences({"new_kernel": row}, committed) == [
        "new_kernel is not in the table",
        "commit_kernel<256, 2048> is in the table and in no source",
    ]
