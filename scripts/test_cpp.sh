#!/usr/bin/env bash
# Builds and runs the torch-free C++ tests: the CPU loops, and the CUDA kernels executed on the host, plain and under
# AddressSanitizer + UBSan and ThreadSanitizer. Usage: scripts/test_cpp.sh [jobs] [preset ...]
set -euo pipefail
cd "$(dirname "$0")/.."
jobs=${1:-2}
shift || true
presets=("${@:-release}")
[ $# -gt 0 ] || presets=(release asan tsan)
command -v cmake >/dev/null || { echo "test-cpp: cmake >= 3.22 is needed (Debian: apt-get install cmake)"; exit 1; }
for preset in "${presets[@]}"; do
  echo "test-cpp: $preset"
  log=build/$preset.log
  mkdir -p build
  { cmake --preset "$preset" && cmake --build --preset "$preset" -j "$jobs"; } >"$log" 2>&1 || { tail -n 60 "$log"; exit 1; }
  ctest --preset "$preset" -j "$jobs"
done
