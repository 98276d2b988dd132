"""Who may import whom, and that every operator and policy has all of its parts."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import torch

import dlmcache_cuda
import dlmcache_cuda.reference

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "dlmcache_cuda"
CSRC = ROOT / "csrc"

# Part of the package -> parts it may import. Arrows only point down.
ALLOWED = {
    "_extension": set(),
    "ops": {"_extension"},
    "profiling": {"_extension"},
    "parallel": {"_extension"},
    "freed_memory": set(),
    "reference": set(),
    "cache": {"ops"},
    "model": {"_extension", "ops", "cache", "assets", "profiling", "freed_memory"},
    "policies": {"ops", "cache"},
    "stack": {"ops", "cache", "model", "policies", "profiling"},
    "samplers": {"ops", "cache"},
    "assets": set(),
    "likelihood": {"model", "decoding"},
    "evaluation": {"decoding", "model", "policies", "likelihood", "parallel", ""},
    "decoding": {
        "ops",
        "cache",
        "model",
        "policies",
        "samplers",
        "stack",
        "profiling",
        "freed_memory",
    },
    "tuning": {"ops", "cache", "decoding", "model", "policies"},
    "benchmark": {
        "ops",
        "assets",
        "decoding",
        "model",
        "policies",
        "testing",
        "parallel",
        "freed_memory",
        "",
    },
    "report": {"decoding"},
    "vision": {"model"},
    "cli": {
        "benchmark",
        "tuning",
        "_extension",
        "ops",
        "assets",
        "decoding",
        "model",
        "policies",
        "samplers",
        "serving",
        "report",
        "evaluation",
        "parallel",
        "",
    },
    "serving": {"decoding", "model", "policies", ""},
    "testing": {"ops", "reference", "cache", "model", "assets", ""},
    "__main__": {"cli"},
    "": {"_extension", "decoding", "model", "policies", "report", "tuning", "vision"},
}


def part_of(module: str) -> str:
    """``dlmcache_cuda.ops.norm`` -> ``ops``; the package itself -> ``""``."""
    pieces = module.split(".")
    return pieces[1] if len(pieces) > 1 else ""


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "dlmcache_cuda":
                found |= {
                    f"dlmcache_cuda.{alias.name}"
                    if alias.name == "_C"
                    or (PACKAGE / alias.name).exists()
                    or (PACKAGE / f"{alias.name}.py").exists()
                    else "dlmcache_cuda"
                    for alias in node.names
                }
            else:
                found.add(node.module)
    return {name for name in found if name.split(".")[0] == "dlmcache_cuda"}


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_python_imports_point_down(path):
    relative = path.relative_to(PACKAGE)
    part = "" if str(relative) == "__init__.py" else relative.parts[0].removesuffix(".py")
    for module in imports(path):
        target = part_of(module)
        if target in (part, "_C"):
            continue
        assert target in ALLOWED[part], f"{relative} imports {module}"


INCLUDE_RULES = {
    # folder: pattern that its includes must match
    "include/dlmcache": r"^(dlmcache/|<[a-z_0-9]+>$|<cuda_fp16\.h>|<cuda_bf16\.h>)",
    "cpu": r"^(dlmcache/|cpu/|<[a-z_0-9]+>$|<immintrin\.h>)",
    "cuda": r"^(dlmcache/|cuda/|emulation/|<[a-z_0-9]+>$|<cuda_[a-z0-9_]+\.h>)",
    "ops": r"^(dlmcache/|ops/|<torch/csrc/stable/|<torch/headeronly/"
    r"|<torch/csrc/inductor/aoti_torch/c/shim\.h>|<[a-z_0-9]+>$|<dlfcn\.h>|<nvtx3/)",
}


@pytest.mark.parametrize("folder", INCLUDE_RULES)
def test_cpp_includes_stay_inside_their_layer(folder):
    sources = [path for path in (CSRC / folder).rglob("*") if path.is_file()]
    assert sources
    for path in sources:
        for include in re.findall(r'^\s*#\s*include\s+("[^"]+"|<[^>]+>)', path.read_text(), re.M):
            name = include.strip('"')
            assert re.match(INCLUDE_RULES[folder], name), f"{path.relative_to(ROOT)}: {include}"


# Operators made of the loops and kernels of others.
COMPOSED = {"forward_layers_", "select_layers_", "track_layers_"}

# Operators that keep the host from waiting for Python, which on CUDA graphs do.
CPU_ONLY = {"select_layers_", "track_layers_"}


def operators() -> list[str]:
    schemas = (CSRC / "schemas.cpp").read_text()
    return sorted(set(re.findall(r'"([a-z_]+)\(Tensor', schemas)))


def stem_of(operator: str) -> str:
    """The family that an operator belongs to: the module of ops/ that defines it."""
    return getattr(dlmcache_cuda.ops, operator).__module__.rpartition(".")[2]


def test_all_schemas_are_found():
    registered = {
        name.removeprefix("dlmcache::").split(".")[0]
        for name in torch._C._dispatch_get_all_op_names()
        if name.startswith("dlmcache::")
    }
    assert set(operators()) == registered


@pytest.mark.parametrize("operator", operators())
def test_operator_has_all_parts(operator):
    stem = stem_of(operator)
    kernels = (
        f"csrc/include/dlmcache/{stem}.h",
        f"csrc/cpu/{stem}.cpp",
        f"csrc/cuda/{stem}.cuh",
        f"csrc/cuda/{stem}.cu",
        f"csrc/tests/test_{stem}.cpp",
    )
    parts = (
        *(() if operator in COMPOSED else kernels),
        f"csrc/ops/{stem}.cpp",
        f"dlmcache_cuda/reference/{stem}.py",
        f"dlmcache_cuda/testing/samples/{stem}.py",
        f"python_tests/ops/test_{stem}.py",
        f"benchmarks/ops/{stem}.py",
        f"docs/operators/{stem}.md",
    )
    missing = [part for part in parts if not (ROOT / part).exists()]
    assert not missing
    assert operator in (ROOT / f"docs/operators/{stem}.md").read_text()
    assert operator in (ROOT / "docs/operators.md").read_text()
    assert f'"{operator}"' in (ROOT / f"csrc/ops/{stem}.cpp").read_text()
    assert hasattr(dlmcache_cuda.reference, operator)


@pytest.mark.parametrize("operator", operators())
def test_operator_is_registered_for_every_built_device(operator):
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    assert has_kernel(f"dlmcache::{operator}", "CPU")
    assert has_kernel(f"dlmcache::{operator}", "Meta")
    on_cuda = dlmcache_cuda.build_info()["cuda"] and operator not in CPU_ONLY
    assert has_kernel(f"dlmcache::{operator}", "CUDA") == on_cuda


@pytest.mark.parametrize("name", list(dlmcache_cuda.available_policies()))
def test_policy_is_documented(name):
    policy = dlmcache_cuda.available_policies()[name]
    assert policy.__doc__ and policy.Config.__doc__
    assert f"`{name}`" in (ROOT / "README.md").read_text()
