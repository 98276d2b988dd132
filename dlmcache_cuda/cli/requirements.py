"""What the package says that it needs, and what of it is installed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
# Extras of those who work on the package; the others are features.
OF_DEVELOPERS = {"test", "dev", "train"}


@dataclass(frozen=True, slots=True)
class Installed:
    """One requirement, and what is there."""

    requirement: str
    """As the package states it: ``torch>=2.11``."""
    version: str | None
    """What is installed; None: nothing."""
    fits: bool


def declared() -> dict[str | None, list[str]]:
    """Requirements by extra, None for those that everybody needs; as text, without markers.

    From ``pyproject.toml`` in a checkout, else from what was installed. Empty where neither is
    there to be read.
    """
    try:
        import tomllib
    except ModuleNotFoundError:  # Python 3.10
        tomllib = None
    file = CHECKOUT / "pyproject.toml"
    if tomllib is not None and file.is_file():
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        if project["name"] == "dlmcache_cuda":
            return {None: project["dependencies"], **project["optional-dependencies"]}
    try:
        lines = requires("dlmcache_cuda") or []
    except PackageNotFoundError:
        return {}
    found: dict[str | None, list[str]] = {}
    for line in lines:
        requirement, _, marker = line.partition(";")
        extra = re.search(r"extra\s*==\s*['\"](\w+)['\"]", marker)
        found.setdefault(extra[1] if extra else None, []).append(requirement.strip())
    return found


def installed(requirement: str) -> Installed:
    """Whether a requirement is met here."""
    from packaging.requirements import Requirement

    wanted = Requirement(requirement)
    try:
        found = version(wanted.name)
    except PackageNotFoundError:
        return Installed(requirement, None, False)
    return Installed(requirement, found, wanted.specifier.contains(found, prereleases=True))
