"""What ships: metadata, package data, and no paths of the machine it was made on."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import dlmcache_cuda
from dlmcache_cuda.assets import tiny_llada_path

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_build_requirements_pin_torch():
    requires = PROJECT["build-system"]["requires"]
    assert {re.split(r"[=><]", item)[0] for item in requires} == {
        "setuptools", "torch", "pybind11", "ninja",
    }  # fmt: skip
    assert any(re.fullmatch(r"torch==2\.\d+\.\*", item) for item in requires)


def test_core_depends_on_torch_and_transformers_only():
    names = {re.split(r"[=><]", item)[0] for item in PROJECT["project"]["dependencies"]}
    assert names == {"torch", "transformers"}


def test_versions_agree():
    assert PROJECT["project"]["version"] == dlmcache_cuda.__version__
    assert f"## {dlmcache_cuda.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_bundled_checkpoint_is_complete_and_small():
    folder = tiny_llada_path()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"):
        assert (folder / name).is_file(), name
    assert (folder / "model.safetensors").stat().st_size <= 8 * 2**20
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["dlmcache_cuda"]
    assert "report/web/*" in patterns
    assert "assets/tiny_llada/*" in patterns and "py.typed" in patterns


def test_makefile_help_lists_every_target():
    text = (ROOT / "Makefile").read_text()
    phony = set(re.search(r"^\.PHONY: (.*)$", text, re.M).group(1).split())
    documented = set(re.findall(r"^([a-z-]+):.*## ", text, re.M))
    assert phony == documented


def tracked_files() -> list[str]:
    call = ["git", "-C", str(ROOT), "ls-files"]
    result = subprocess.run(call, capture_output=True, text=True, check=False)
    if result.returncode:
        pytest.skip("not a git checkout")
    return result.stdout.split()


def test_no_paths_of_one_machine():
    pattern = re.compile(r"(?<![\w/.<])/(?:work|home|root)/\w")
    for name in tracked_files():
        path = ROOT / name
        if path.suffix in (".safetensors", ".png") or not path.is_file():
            continue
        found = pattern.search(path.read_text(errors="ignore"))
        assert not found, f"{name}: {found.group()}"
