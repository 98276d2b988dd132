"""The examples in the documents run."""

from __future__ import annotations

import dataclasses
import re
import sys
import types
from pathlib import Path

import pytest

import dlmcache_cuda
from dlmcache_cuda.policies import registry

ROOT = Path(__file__).parent.parent
# Documents whose Python blocks run, each by itself.
EXAMPLES = (
    "README.md",
    "docs/calibrate.md",
    "docs/infilling.md",
    "docs/llada_v.md",
    "docs/memory.md",
    "docs/outputs.md",
    "docs/profiling.md",
    "docs/streaming.md",
    "docs/verify.md",
)
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def python_blocks(path: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", path.read_text(), re.M | re.S)


def test_the_policy_of_add_a_policy_works(monkeypatch):
    monkeypatch.setattr(registry, "_POLICIES", registry.available_policies())
    (block,) = python_blocks(ROOT / "docs/add_a_policy.md")
    module = types.ModuleType("dlmcache_cuda.policies.vicinity")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(block, "docs/add_a_policy.md", "exec"), module.__dict__)
    model = dlmcache_cuda.load()
    prompt = [{"role": "user", "content": "(a) boat finds zinc . start boat steps 1 ?"}]
    settings = {"gen_length": 32, "block_length": 8}
    vanilla = dlmcache_cuda.decode(model, prompt, **settings)
    exact = module.Vicinity.exact_config()
    assert dlmcache_cuda.decode(model, prompt, cache=exact, **settings).text == vanilla.text
    cached = dlmcache_cuda.decode(model, prompt, cache="vicinity", **settings)
    assert cached.stats.rows_computed < vanilla.stats.rows_computed


@pytest.mark.parametrize(
    "path",
    [ROOT / name for name in EXAMPLES],
    ids=lambda path: path.name,
)
def test_python_examples_run(path, monkeypatch, tmp_path):
    blocks = python_blocks(path)
    assert blocks
    monkeypatch.chdir(tmp_path)  # some write files
    page = {"__name__": "example"}  # blocks go on where those above them ended
    for block in blocks:
        exec(compile(block, str(path), "exec"), page)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text()):
        if not re.match(r"[a-z]+:", target):
            assert (path.parent / target).exists(), f"{path.relative_to(ROOT)}: {target}"


def test_files_named_in_documents_exist():
    pattern = re.compile(
        r"`((?:csrc|dlmcache_cuda|python_tests|benchmarks|docs|examples|scripts)/[\w./-]+)`"
    )
    for path in DOCUMENTS:
        for name in pattern.findall(path.read_text()):
            assert (ROOT / name).exists(), f"{path.relative_to(ROOT)}: {name}"


def test_the_page_of_caches_has_every_setting_and_default():
    sections = re.split(r"^## ", (ROOT / "docs/caches.md").read_text(), flags=re.M)
    for name, policy in dlmcache_cuda.available_policies().items():
        (section,) = [text for text in sections if f"`{name}`" in text.partition("\n")[0]]
        rows = re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", section, re.M)
        fields = [(field.name, repr(field.default)) for field in dataclasses.fields(policy.Config)]
        assert rows == fields, name


def test_the_page_of_caches_has_every_exact_setting():
    page = (ROOT / "docs/caches.md").read_text()
    for name, policy in dlmcache_cuda.available_policies().items():
        (row,) = re.findall(rf"^\| \[.*`{name}`\].*\| (.+) \|$", page, re.M)
        default, exact = policy.Config(), policy.exact_config()
        differing = {
            field.name: getattr(exact, field.name)
            for field in dataclasses.fields(policy.Config)
            if getattr(exact, field.name) != getattr(default, field.name)
        }
        stated = ", ".join(f"{key}={value!r}" for key, value in differing.items())
        assert sorted(row.strip("`").split(", ")) == sorted((stated or "always").split(", ")), name
