"""dlmcache doctor: what it finds, the commands it names, its exit code, and that it always runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import dlmcache_cuda
from dlmcache_cuda.cli import doctor, requirements
from dlmcache_cuda.cli.main import main


def found(capsys) -> dict[str, dict]:
    return {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}


def test_a_working_installation_is_code_0(capsys):
    assert main(["doctor", "--json"]) == 0
    checks = found(capsys)
    assert checks["decode() on cpu"]["status"] == "ok"
    assert checks["compiled operators"]["status"] == "ok"
    assert torch.__version__ in checks["torch>=2.11"]["found"]
    assert {"extra cli", "extra eval", "extra serve"} <= checks.keys()
    assert "extra test" not in checks
    assert main(["doctor"]) == 0
    assert "decode() works" in capsys.readouterr().out


def test_missing_extras_are_no_fault_and_get_their_command(capsys, monkeypatch):
    needs = {None: ["torch>=2.11"], "magic": ["torch>=2.11", "no-such-package>=1"]}
    monkeypatch.setattr(doctor, "declared", lambda: needs)
    assert main(["doctor", "--json"]) == 0
    check = found(capsys)["extra magic"]
    assert check["status"] == "missing"
    assert check["fix"] == f"{sys.executable} -m pip install 'no-such-package>=1'"


@pytest.mark.parametrize("requirement", ["torch>=99", "no-such-package>=1"])
def test_what_everybody_needs_is_a_fault(requirement, capsys, monkeypatch):
    monkeypatch.setattr(doctor, "declared", lambda: {None: [requirement]})
    assert main(["doctor", "--json"]) == 1
    check = found(capsys)[requirement]
    assert check["status"] == "broken" and check["fix"].endswith(f"pip install '{requirement}'")
    assert main(["doctor"]) == 1
    assert f"! {requirement}" in capsys.readouterr().out


def test_decoding_that_fails_is_a_fault(capsys, monkeypatch):
    def fails(*arguments, **options):
        raise MemoryError("no room\nat all")

    monkeypatch.setattr(dlmcache_cuda, "decode", fails)
    assert main(["doctor", "--json"]) == 1
    check = found(capsys)["decode() on cpu"]
    assert check["status"] == "broken" and check["found"] == "no room"


@pytest.mark.parametrize(
    "arch, capability, serves",
    [
        ("80", (8, 0), True),
        ("80", (8, 9), True),
        ("86", (8, 0), False),
        ("90", (8, 9), False),
        ("90a", (9, 0), True),
        ("sm_100", (10, 0), True),
        ("90", (10, 0), False),
        ("90+PTX", (12, 0), True),
        ("?", (9, 0), False),
    ],
)
def test_which_gpu_runs_which_code(arch, capability, serves):
    assert doctor._serves(arch, capability) is serves


def test_a_gpu_without_kernels_is_a_fault(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "Some GPU")
    check = doctor._gpu(1, (7, 5), ["80", "90"])
    assert check.status == "broken" and "kernels are for 80, 90" in check.found
    assert "DLMCACHE_CUDA_ARCHS=7.5" in check.fix
    assert doctor._gpu(0, (9, 0), ["80", "90"]).status == "ok"


def test_requirements_are_read_from_an_installation_too(monkeypatch, tmp_path):
    lines = ["torch>=2.11", 'rich>=13; extra == "cli"', "lm-eval>=0.4 ; extra == 'eval'"]
    monkeypatch.setattr(requirements, "CHECKOUT", tmp_path)
    monkeypatch.setattr(requirements, "requires", lambda name: lines)
    assert requirements.declared() == {
        None: ["torch>=2.11"], "cli": ["rich>=13"], "eval": ["lm-eval>=0.4"],
    }  # fmt: skip


def test_it_runs_where_the_operators_cannot_be_loaded(tmp_path):
    package = Path(dlmcache_cuda.__file__).parent
    ignored = shutil.ignore_patterns("_C*.so", "__pycache__", "assets")
    shutil.copytree(package, tmp_path / "dlmcache_cuda", ignore=ignored)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}

    def call(*arguments):
        return subprocess.run(
            [sys.executable, *arguments],
            capture_output=True, text=True, cwd=tmp_path, env=environment,
        )  # fmt: skip

    result = call("-m", "dlmcache_cuda", "doctor")
    assert result.returncode == 1 and "make build" in result.stdout
    assert "! compiled operators" in result.stdout and not result.stderr
    result = call("-m", "dlmcache_cuda", "decode", "hello")
    assert result.returncode == 1 and "`dlmcache doctor` tells more" in result.stderr
    assert "Traceback" not in result.stderr
    result = call("-c", "import dlmcache_cuda; dlmcache_cuda.load()")
    assert "ImportError: dlmcache_cuda: the compiled extension" in result.stderr
