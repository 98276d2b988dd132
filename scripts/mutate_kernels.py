"""Breaks the CUDA kernels on purpose, one change at a time, and lists what no test notices.

    python scripts/mutate_kernels.py --barriers                      # delete each barrier in turn
    python scripts/mutate_kernels.py --count 30 --seed 1             # 30 random changes of an index
    python scripts/mutate_kernels.py --files select.cuh --count 10   # in the kernels of one file

Works in build/mutants on a copy of csrc; needs cmake, ninja and CUDA's headers, no GPU. A change
is caught when the C++ tests of its family fail: under ThreadSanitizer for a barrier, under
AddressSanitizer and UBSan for an index. A survivor is a hole in the tests or a change without
effect (a loop that runs once more over nothing, say): look at each.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build/mutants"
SANITIZERS = {"barrier": "thread", "index": "address,undefined"}
# Where the tests are not those of the same name: headers that no family owns, and a test that is
# built once per instruction set.
SHARED = {
    "random": ["random_baseline"],
    "normalise_row": ["norm", "delta"],
    "score_tile": ["attention", "attention_mass", "tracked_drift"],
}
BARRIER = re.compile(r"__sync(threads|warp)\(\);")
# Spaces on both sides: clang-format leaves none inside of template arguments.
REPLACEMENTS = (
    (" + 1", " + 0"),
    (" - 1", " - 0"),
    (" < ", " <= "),
    (" <= ", " < "),
    (" > ", " >= "),
    (" >= ", " > "),
    (" * ", " + "),
    (" / ", " % "),
    (" % ", " / "),
)
NOT_CODE = re.compile(r"^\s*(//|#|static_assert|template|asm)|^\s*\"|STD_|emulation::")


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of one line."""

    path: Path  # below csrc/cuda
    line: int  # from 0
    column: int
    old: str
    new: str
    kind: str

    def describe(self, text: str) -> str:
        change = (
            f"without {self.old}" if self.kind == "barrier" else f"{self.old!r} -> {self.new!r}"
        )
        return f"csrc/cuda/{self.path.name}:{self.line + 1}: {change}: {text.strip()}"


def mutants_of(path: Path, kind: str) -> list[Mutant]:
    """Every change of one kind that a file offers, outside of comments and nvcc-only parts."""
    found = []
    only_nvcc = False
    for number, line in enumerate(path.read_text().splitlines()):
        if line.startswith("#"):
            only_nvcc = line.startswith("#ifdef __CUDACC__")
        code = line.split("//", 1)[0]
        if only_nvcc or NOT_CODE.search(code):
            continue
        if kind == "barrier":
            places = [(match.start(), match.group(), "") for match in BARRIER.finditer(code)]
        else:
            places = [
                (match.start(), old, new)
                for old, new in REPLACEMENTS
                for match in re.finditer(re.escape(old) + r"(?![\d.])", code)
            ]
        found += [Mutant(path, number, column, old, new, kind) for column, old, new in places]
    return found


def tests_of(path: Path) -> list[str]:
    """The C++ tests of a file's family."""
    return [f"test_{family}" for family in SHARED.get(path.stem, [path.stem])]


def build(kind: str, targets: list[str]) -> bool:
    """Builds tests in the preset that catches this kind of change; whether that worked."""
    folder = WORK / kind
    if not (folder / "build.ninja").exists():
        command = ["cmake", "-G", "Ninja", "-S", str(WORK), "-B", str(folder)]
        command += ["-DCMAKE_BUILD_TYPE=Sanitize", f"-DDLMCACHE_SANITIZE={SANITIZERS[kind]}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    result = subprocess.run(["ninja", "-C", str(folder), *targets], capture_output=True)
    return result.returncode == 0


def passes(kind: str, targets: list[str]) -> bool:
    """Whether all of these tests pass; one that does not come to an end has failed."""
    for order in ("forward", "reverse"):
        for target in targets:
            try:
                result = subprocess.run(
                    [str(WORK / kind / target)],
                    capture_output=True,
                    timeout=300,
                    env={**os.environ, "DLMCACHE_EMULATION_ORDER": order},
                )
            except subprocess.TimeoutExpired:
                return False
            if result.returncode != 0:
                return False
    return True


def judge(mutant: Mutant) -> str:
    """'caught', 'survived' or 'no code' (it does not compile)."""
    copy = WORK / "csrc/cuda" / mutant.path.name
    original = mutant.path.read_text()
    lines = original.split("\n")
    line = lines[mutant.line]
    behind = mutant.column + len(mutant.old)
    lines[mutant.line] = line[: mutant.column] + mutant.new + line[behind:]
    copy.write_text("\n".join(lines))
    try:
        targets = tests_of(mutant.path)
        if not build(mutant.kind, targets):
            return "no code"
        return "survived" if passes(mutant.kind, targets) else "caught"
    finally:
        copy.write_text(original)


def copy_changed(source: str, destination: str) -> str:
    """Copies a file with a new time unless it is there already.

    The time of the original would be older than the object of the last run's last mutant, which
    ninja would then take for up to date.
    """
    target = Path(destination)
    if not target.exists() or target.read_bytes() != Path(source).read_bytes():
        shutil.copyfile(source, destination)
    return destination


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--barriers", action="store_true", help="delete every barrier in turn")
    parser.add_argument("--count", type=int, default=0, help="random changes of an index")
    parser.add_argument("--seed", type=int, default=0, help="of the random choice (default 0)")
    parser.add_argument("--files", nargs="+", help="names in csrc/cuda (default: all kernels)")
    arguments = parser.parse_args()
    if not arguments.barriers and arguments.count < 1:
        parser.error("nothing to do: give --barriers, or --count of at least 1")
    paths = sorted((ROOT / "csrc/cuda").glob("*.cuh"))
    if arguments.files:
        if unknown := set(arguments.files) - {path.name for path in paths}:
            parser.error(f"--files: no csrc/cuda/{', '.join(sorted(unknown))}")
        paths = [path for path in paths if path.name in arguments.files]
    tested = {path.stem.removeprefix("test_") for path in (ROOT / "csrc/tests").glob("test_*.cpp")}
    paths = [path for path in paths if path.stem in SHARED or path.stem in tested]

    shutil.copytree(ROOT / "csrc", WORK / "csrc", dirs_exist_ok=True, copy_function=copy_changed)
    copy_changed(str(ROOT / "CMakeLists.txt"), str(WORK / "CMakeLists.txt"))
    chosen = []
    if arguments.barriers:
        chosen += [mutant for path in paths for mutant in mutants_of(path, "barrier")]
    indices = [mutant for path in paths for mutant in mutants_of(path, "index")]
    random.Random(arguments.seed).shuffle(indices)
    missing = arguments.count
    for kind in sorted({mutant.kind for mutant in chosen} | ({"index"} if missing else set())):
        targets = sorted({target for path in paths for target in tests_of(path)})
        if not build(kind, targets) or not passes(kind, targets):
            sys.exit(f"mutate_kernels: the tests fail without any change ({SANITIZERS[kind]})")

    verdicts = {"caught": 0, "survived": 0}
    chosen += indices
    for mutant in chosen:
        if mutant.kind == "index" and missing == 0:
            break
        verdict = judge(mutant)
        if verdict == "no code":
            continue
        if mutant.kind == "index":
            missing -= 1
        verdicts[verdict] += 1
        if verdict == "survived":
            text = mutant.path.read_text().splitlines()[mutant.line]
            print(f"survived: {mutant.describe(text)}", flush=True)
    print(f"{verdicts['caught']} caught, {verdicts['survived']} survived")
    return 0


if __name__ == "__main__":
    sys.exit(main())
