"""Builds ``dlmcache_cuda._C``: CPU operators always, CUDA operators when a CUDA toolkit is found.

Environment (all optional; what was decided and why is printed):

DLMCACHE_WITH_CUDA   auto (default): with CUDA when a complete toolkit is found; 1: required; 0: no
DLMCACHE_CUDA_ARCHS  architectures; default "80;90;100+PTX", less those that nvcc does not know
CUDA_HOME            the toolkit; otherwise /usr/local/cuda, then the folder above nvcc on the PATH
MAX_JOBS             compiler processes at a time; default: cores, but at most one per 2 GiB free

Whether CUDA is built never depends on a visible GPU or on a CUDA build of torch: sources under
csrc/cuda include no torch header, are compiled by nvcc directly, and reach torch through its
stable ABI.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import setup

try:
    import torch
    from torch.utils.cpp_extension import BuildExtension, CppExtension
except ModuleNotFoundError as error:
    raise SystemExit(
        f"dlmcache_cuda: building needs torch >= 2.11 ({error}). Install it first when you pass "
        "--no-build-isolation; without that option pip provides it."
    ) from error

ROOT = Path(__file__).parent.resolve()
CSRC = ROOT / "csrc"
DEFAULT_ARCHS = ("80", "90", "100")
CPU_ARCHS = {"baseline": []}
if platform.machine().lower() in ("x86_64", "amd64"):
    CPU_ARCHS["avx2"] = ["-mavx2", "-mfma", "-mf16c"]
    # Of loops that write as much as they compute (DLMCACHE_DISPATCH_CPU_BF16), in vectors as wide
    # as AVX2's.
    CPU_ARCHS["avx512_bf16"] = [
        *CPU_ARCHS["avx2"], "-mavx512f", "-mavx512vl", "-mavx512bw", "-mavx512dq", "-mavx512bf16",
        "-mprefer-vector-width=256",
    ]  # fmt: skip
BF16_FILES = ("delta", "norm", "rope_cache", "swiglu")


def find_cuda_home() -> tuple[Path | None, str]:
    """The toolkit's folder, or None and why. It must hold nvcc, headers and the static runtime."""
    candidates = [os.environ.get("CUDA_HOME"), "/usr/local/cuda"]
    if nvcc := shutil.which("nvcc"):
        candidates.append(str(Path(nvcc).resolve().parents[1]))
    for candidate in filter(None, candidates):
        home = Path(candidate)
        if not (home / "bin/nvcc").exists() or not (home / "include/cuda_runtime.h").exists():
            continue
        if not any((home / lib / "libcudart_static.a").exists() for lib in ("lib64", "lib")):
            continue
        return home, f"toolkit at {home}"
    return (
        None,
        "no complete CUDA toolkit found (looked at CUDA_HOME, /usr/local/cuda and the PATH)",
    )


def choose_cuda() -> tuple[Path | None, str]:
    """The toolkit to build with (None: CPU only) and the reason."""
    switch = os.environ.get("DLMCACHE_WITH_CUDA", "auto").lower()
    if switch not in ("auto", "1", "0"):
        raise SystemExit(f"DLMCACHE_WITH_CUDA must be auto, 1 or 0, got {switch!r}")
    if switch == "0":
        return None, "DLMCACHE_WITH_CUDA=0"
    home, reason = find_cuda_home()
    if switch == "1" and home is None:
        raise SystemExit(f"DLMCACHE_WITH_CUDA=1, but {reason}")
    return home, reason


def cuda_archs(nvcc: Path) -> list[str]:
    """Architectures to compile for, as '80', '90' or '100+PTX'."""
    if requested := os.environ.get("DLMCACHE_CUDA_ARCHS"):
        return [arch for arch in requested.replace(",", ";").split(";") if arch]
    known = subprocess.run(
        [nvcc, "--list-gpu-code"], capture_output=True, text=True, check=True
    ).stdout.split()
    archs = [arch for arch in DEFAULT_ARCHS if f"sm_{arch}" in known]
    if not archs:
        raise SystemExit(f"{nvcc} knows none of the architectures {', '.join(DEFAULT_ARCHS)}")
    archs[-1] += "+PTX"  # later GPUs compile it when they load it
    return archs


def gencode_flags(archs: list[str]) -> list[str]:
    flags = []
    for arch in archs:
        number = arch.removesuffix("+PTX")
        code = f"sm_{number},compute_{number}" if arch.endswith("+PTX") else f"sm_{number}"
        code = f"[{code}]" if "," in code else code
        flags.append(f"-gencode=arch=compute_{number},code={code}")
    return flags


def max_jobs() -> int:
    if jobs := os.environ.get("MAX_JOBS"):
        return max(1, int(jobs))
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    try:
        free_gib = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    except (ValueError, OSError):
        free_gib = 2.0 * cores
    return max(1, min(cores, int(free_gib / 2)))


def find_nvtx(cuda_home: Path | None) -> Path | None:
    """The folder with the headers of nvtx3, which need no other part of the toolkit."""
    home = cuda_home or find_cuda_home()[0]
    found = home is not None and (home / "include/nvtx3/nvToolsExt.h").exists()
    return home / "include" if found else None


class Build(BuildExtension):
    """Adds the torch-free objects: csrc/cpu once per instruction set, csrc/cuda by nvcc."""

    def build_extension(self, ext) -> None:
        out = Path(self.build_temp).resolve() / "objects"
        out.mkdir(parents=True, exist_ok=True)
        commands = self.cpu_commands(out)
        if CUDA_HOME is not None:
            commands += self.cuda_commands(out)
        newest_header = max(
            path.stat().st_mtime for path in CSRC.rglob("*") if path.suffix in (".h", ".cuh")
        )
        newest_header = max(newest_header, Path(__file__).stat().st_mtime)

        def compile_one(command: tuple[list[str], Path, Path]) -> str:
            arguments, source, target = command
            # The command is part of the stamp: other flags mean another object.
            stamp = target.with_suffix(".cmd")
            text = " ".join(map(str, arguments))
            fresh = (
                target.exists()
                and target.stat().st_mtime > max(newest_header, source.stat().st_mtime)
                and stamp.exists()
                and stamp.read_text() == text
            )
            if not fresh:
                print(f"compiling {source.relative_to(ROOT)} -> {target.name}", flush=True)
                done = subprocess.run(
                    arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
                )
                if done.returncode != 0 or "warning" in done.stdout:
                    print(done.stdout, end="", flush=True)
                done.check_returncode()
                # Has ptxas' report of every kernel, which scripts/kernel_table.py reads.
                target.with_suffix(".log").write_text(done.stdout)
                stamp.write_text(text)
            return str(target)

        with ThreadPoolExecutor(max_jobs()) as pool:
            ext.extra_objects = list(pool.map(compile_one, commands))
        super().build_extension(ext)

    def cpu_commands(self, out: Path) -> list[tuple[list[str], Path, Path]]:
        compiler = os.environ.get("CXX", "c++")
        # No errno and no traps, so that loops vectorise; the order of sums stays as written.
        base = [compiler, "-O3", "-g0", "-std=c++20", "-fPIC", "-fvisibility=hidden", "-Wall",
                "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-Wno-psabi",
                f"-I{CSRC}", f"-I{CSRC / 'include'}"]  # fmt: skip
        # Baseline objects are linked first: where an inline function was compiled in several of
        # them, the linker keeps the first, and that one must run on every processor.
        commands = []
        for arch, flags in {"": [], **CPU_ARCHS}.items():
            for source in sorted((CSRC / "cpu").glob("*.cpp")):
                if source.stem.startswith("dispatch") != (arch == ""):
                    continue
                if arch == "avx512_bf16" and source.stem not in BF16_FILES:
                    continue
                target = out / f"{source.stem}{'.' + arch if arch else ''}.cpu.o"
                define = [f"-DDLMCACHE_CPU_ARCH={arch}"] if arch else []
                command = [*base, *flags, *define, "-c", str(source), "-o", str(target)]
                commands.append((command, source, target))
        return commands

    def cuda_commands(self, out: Path) -> list[tuple[list[str], Path, Path]]:
        base = [str(CUDA_HOME / "bin/nvcc"), "-O3", "-std=c++20", "-lineinfo", "--extended-lambda",
                "-Xptxas=-v", "-Xcompiler=-fPIC,-fvisibility=hidden", *gencode_flags(ARCHS),
                f"-I{CSRC}", f"-I{CSRC / 'include'}"]  # fmt: skip
        commands = []
        for source in sorted((CSRC / "cuda").glob("*.cu")):
            target = out / f"{source.stem}.cuda.o"
            commands.append(([*base, "-c", str(source), "-o", str(target)], source, target))
        return commands


CUDA_HOME, REASON = choose_cuda()
ARCHS = cuda_archs(CUDA_HOME / "bin/nvcc") if CUDA_HOME else []
NVTX = find_nvtx(CUDA_HOME)
BUILD_INFO = {
    "torch": torch.__version__,
    "python": platform.python_version(),
    "cuda": bool(CUDA_HOME),
    "cuda_reason": REASON,
    "cuda_archs": ARCHS,
    "cpu_archs": list(CPU_ARCHS),
    "nvtx": NVTX is not None,
}
print(
    f"dlmcache_cuda: CUDA operators {'ON' if CUDA_HOME else 'OFF'} ({REASON})"
    + (f", architectures {';'.join(ARCHS)}" if ARCHS else "")
    + f"; CPU operators for {', '.join(CPU_ARCHS)}; torch {torch.__version__}",
    file=sys.stderr,
    flush=True,
)

try:
    import pybind11

    PYBIND11 = [pybind11.get_include()]
except ModuleNotFoundError:
    PYBIND11 = []  # torch ships the headers too

GENERATED = ROOT / "build/generated"
header = GENERATED / "dlmcache_build_info.h"
text = f'#define DLMCACHE_BUILD_INFO R"json({json.dumps(BUILD_INFO)})json"\n'
if not header.exists() or header.read_text() != text:
    GENERATED.mkdir(parents=True, exist_ok=True)
    header.write_text(text)

sources = ["csrc/module.cpp", "csrc/schemas.cpp"]
sources += sorted(str(path.relative_to(ROOT)) for path in (CSRC / "ops").glob("*.cpp"))
extension = CppExtension(
    "dlmcache_cuda._C",
    sources,
    include_dirs=[str(CSRC), str(CSRC / "include"), str(GENERATED), *PYBIND11],
    extra_compile_args={
        "cxx": [
            "-O2",
            "-g0",
            "-std=c++20",
            "-fvisibility=hidden",
            "-DTORCH_TARGET_VERSION=0x020b000000000000",
            *(["-DDLMCACHE_WITH_CUDA"] if CUDA_HOME else []),
            # Behind torch's own folders: a toolkit holds more headers than these.
            *(["-DDLMCACHE_WITH_NVTX", f"-idirafter{NVTX}"] if NVTX else []),
        ]
    },
)
if CUDA_HOME:
    extension.library_dirs += [str(CUDA_HOME / lib) for lib in ("lib64", "lib")]
    extension.libraries += ["cudart_static", "rt", "dl", "pthread"]
elif NVTX:
    extension.libraries += ["dl"]  # nvtx3 loads the tool that listens

setup(ext_modules=[extension], cmdclass={"build_ext": Build})
