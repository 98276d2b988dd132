"""Check the installation: what is there, what is missing, and the command that fixes it.

Exits with 0 when decode() works, with 1 when it does not. Missing extras and a missing GPU are told
but no fault. It runs even where the package itself cannot be imported.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from dlmcache_cuda.cli import env
from dlmcache_cuda.cli.requirements import OF_DEVELOPERS, declared, installed

OK, MISSING, BROKEN = "ok", "missing", "broken"
MARKS = {OK: "+", MISSING: "-", BROKEN: "!"}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: of the thing.
        status: ``ok``; ``missing``: decode() works without it; ``broken``: it does not.
        found: what is there.
        fix: the command, or what to do; None where nothing is to be done.
    """

    name: str
    status: str
    found: str
    fix: str | None = None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def checks() -> list[Check]:
    """Everything, in the order in which things depend on each other."""
    found = [Check("python", OK, f"{platform.python_version()} ({sys.executable})")]
    found += _requirements()
    extension = _extension()
    found.append(extension)
    if extension.status == OK:
        found += _cuda()
        found += _decoding()
    found += _extras()
    return found


def _pip(*requirements: str) -> str:
    return f"{sys.executable} -m pip install {' '.join(map(repr, requirements))}"


def _requirements() -> Iterator[Check]:
    for requirement in declared().get(None, []):
        try:
            there = installed(requirement)
        except ModuleNotFoundError as error:
            yield Check(requirement, BROKEN, f"cannot be compared: {error}", _pip("packaging"))
            continue
        text = there.version or "not installed"
        if there.fits:
            yield Check(requirement, OK, text)
        else:
            yield Check(requirement, BROKEN, text, _pip(requirement))


def _extension() -> Check:
    name = "compiled operators"
    try:
        facts = env.collect()
    except Exception as error:
        return Check(name, BROKEN, str(error), "make build (in a checkout), or reinstall")
    if not facts["cpu operators run"]:
        return Check(name, BROKEN, "they compute wrong numbers", "make clean build")
    return Check(name, OK, f"{facts['cpu operators']}; {facts['built with']}")


def _cuda() -> Iterator[Check]:
    import torch

    import dlmcache_cuda

    info = dlmcache_cuda.build_info()
    facts = env.collect()
    visible = torch.cuda.is_available()
    with_cuda = "DLMCACHE_WITH_CUDA=1 make build"
    if not info["cuda"]:
        yield Check("CUDA kernels", MISSING, facts["cuda operators"], with_cuda)
    else:
        yield Check("CUDA kernels", OK, facts["cuda operators"])
    if torch.version.cuda is None:
        fix = (
            f"a torch with CUDA, where there is a GPU: {_pip('torch')} (pytorch.org names indexes)"
        )
        yield Check("GPU", MISSING, facts["cuda devices"], fix)
    elif not visible:
        fix = "nvidia-smi must list it; then CUDA_VISIBLE_DEVICES must not hide it"
        yield Check("GPU", MISSING, facts["cuda devices"], fix)
    else:
        for index in range(torch.cuda.device_count()):
            yield _gpu(index, torch.cuda.get_device_capability(index), info["cuda_archs"])


def _gpu(index: int, capability: tuple[int, int], archs: list[str]) -> Check:
    """Whether the kernels were compiled for a GPU: for its own number or, of the same generation,
    a smaller one; code for ``+PTX`` serves any newer one."""
    import torch

    name = f"GPU {index}"
    text = (
        f"{torch.cuda.get_device_name(index)}, compute capability {capability[0]}.{capability[1]}"
    )
    if any(_serves(arch, capability) for arch in archs):
        return Check(name, OK, text)
    own = f"{capability[0]}.{capability[1]}"
    return Check(
        name,
        BROKEN,
        f"{text}: kernels are for {', '.join(archs) or 'none'}",
        f"DLMCACHE_CUDA_ARCHS={own} DLMCACHE_WITH_CUDA=1 make clean build",
    )


def _serves(arch: str, capability: tuple[int, int]) -> bool:
    digits = "".join(letter for letter in arch.split("_")[-1].split("+")[0] if letter.isdigit())
    if len(digits) < 2:
        return False
    built = int(digits[:-1]), int(digits[-1])
    if "ptx" in arch.lower() or arch.startswith("compute"):
        return capability >= built
    return capability[0] == built[0] and capability[1] >= built[1]


def _decoding() -> Iterator[Check]:
    import torch

    import dlmcache_cuda

    devices = ["cpu"]
    if dlmcache_cuda.build_info()["cuda"] and torch.cuda.is_available():
        devices.append("cuda")
    for device in devices:
        name = f"decode() on {device}"
        try:
            start = time.perf_counter()
            model = dlmcache_cuda.load(device=device)
            prompt = [{"role": "user", "content": "(a) boat finds zinc . start boat steps 1 ?"}]
            out = dlmcache_cuda.decode(model, prompt, gen_length=16, cache="dual", seed=0)
            seconds = time.perf_counter() - start
        except Exception as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            yield Check(name, BROKEN, reason, f"dlmcache decode --device {device} hello  # details")
        else:
            yield Check(name, OK, f"{out.stats.forwards} forwards, {seconds:.1f} s with loading")


def _extras() -> Iterator[Check]:
    for extra, requirements in declared().items():
        if extra is None or extra in OF_DEVELOPERS:
            continue
        try:
            there = [installed(requirement) for requirement in requirements]
        except ModuleNotFoundError:
            continue  # said above
        lacking = [part.requirement for part in there if not part.fits]
        text = ", ".join(f"{part.requirement}: {part.version or 'not installed'}" for part in there)
        status = MISSING if lacking else OK
        yield Check(f"extra {extra}", status, text, _pip(*lacking) if lacking else None)


def run(arguments: argparse.Namespace) -> int:
    found = checks()
    works = all(check.status != BROKEN for check in found)
    if arguments.json:
        result: dict[str, Any] = {"works": works, "checks": [asdict(check) for check in found]}
        print(json.dumps(result, indent=1))
        return 0 if works else 1
    width = max(len(check.name) for check in found)
    for check in found:
        print(f"{MARKS[check.status]} {check.name:<{width}}  {check.found}")
        if check.fix is not None:
            print(f"  {'':<{width}}  fix: {check.fix}")
    if works:
        print("\ndecode() works. Lines with - are optional.")
    else:
        print("\ndecode() does not work everywhere: see the lines with !")
    return 0 if works else 1
