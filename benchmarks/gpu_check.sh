#!/usr/bin/env bash
# Builds, tests, sanitizes, soaks and times the package on a CUDA GPU: docs/gpu_check.md.
#
#   benchmarks/gpu_check.sh [--out DIR] [--full] [--dry-run]
#
# Results go to DIR (default: $OUT, else build/gpu_check). Parts that have passed for these sources and this device are
# not run again. --dry-run prints the commands and runs the Python parts on the CPU, tiny.
# Exit code: 0 all passed, 1 something failed, 3 something was left for the next run.
# PYTHON   interpreter (default: python3)
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
out=${OUT:-build/gpu_check}
dry=0
arguments=(--device cuda --size 8b)
while [ $# -gt 0 ]; do
  case $1 in
    --out) out=${2:?--out needs a folder}; shift 2 ;;
    --full) arguments+=(--full); shift ;;
    --dry-run) dry=1; shift ;;
    *) echo "gpu_check: unknown argument $1; allowed are --out DIR, --full, --dry-run" >&2; exit 1 ;;
  esac
done
[ $dry = 0 ] || arguments=(--device cpu --size tiny --quick)
python=${PYTHON:-python3}
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
mkdir -p "$out"
key="$("$python" -m benchmarks.gpu key "${arguments[@]}") ${arguments[*]}"
stop='kill $(jobs -p) 2>/dev/null; exit 130'
trap "$stop" INT TERM
beside() { (trap "$stop" INT TERM; "$@") & }

# part NAME SECONDS COMMAND...: runs a command within its time, unless it has passed before.
part() {
  local name=$1 limit=$2 begin=$SECONDS status rc=0
  shift 2
  if [ "$(cat "$out/$name.stamp" 2>/dev/null)" = "$key" ]; then
    echo "gpu_check: $name: passed before"
    return
  fi
  echo "gpu_check: $name (at most $limit s): $*"
  rm -f "$out/$name.stamp"
  timeout --kill-after=5 "$limit" "$@" >"$out/$name.log" 2>&1 &
  wait $! || rc=$?
  case $rc in
    0) status=passed; echo "$key" >"$out/$name.stamp" ;;
    3) status=incomplete ;;
    124 | 137) status="time limit" ;;
    *) status=failed; tail -n 30 "$out/$name.log" ;;
  esac
  echo "$status $((SECONDS - begin))" >"$out/$name.status"
  echo "gpu_check: $name: $status"
}
# Parts that begin no case after so many seconds, and are ended a while later.
python_part() { part "$1" $(($2 + 10)) "$python" -m benchmarks.gpu "$1" "${arguments[@]}" --out "$out" --seconds "$2"; }
sanitizer() {
  local call=("$python" -m benchmarks.gpu exercise "${arguments[@]}" --out "$out/$1")
  local filter=()
  # Races in the libraries of others are not looked for.
  [ "$1" = memcheck ] || filter=(--kernel-name kns=dlmcache)
  local watched=(compute-sanitizer --tool "$1" --error-exitcode 99 "${filter[@]}" "${call[@]}")
  if [ $dry = 1 ]; then
    echo "gpu_check: would run: ${watched[*]}"
  elif ! command -v compute-sanitizer >/dev/null; then
    echo "gpu_check: $1: skipped, there is no compute-sanitizer"
    echo "skipped 0" >"$out/$1.status"
  else
    # A case that was done before would not be watched.
    rm -f "$out/$1/exercise.json"
    # Every tensor gets memory of its own, so that reading beside it is found.
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 part "$1" 150 "${watched[@]}"
  fi
}

if [ $dry = 1 ]; then
  echo "gpu_check: would run: DLMCACHE_WITH_CUDA=1 DLMCACHE_CUDA_ARCHS=<of the GPU> $python setup.py build_ext --inplace"
else
  arch=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader -i 0 | tr -d .)
  export DLMCACHE_WITH_CUDA=1 DLMCACHE_CUDA_ARCHS=$arch
  part build 120 "$python" setup.py build_ext --inplace
fi
"$python" -m benchmarks.gpu header "${arguments[@]}" | tee "$out/header.txt"
# What is not timed runs side by side.
beside python_part suite 140
beside python_part soak 140
for tool in memcheck racecheck synccheck; do
  beside sanitizer "$tool"
done
wait
[ $dry = 0 ] || python_part exercise 60
python_part copy 10
python_part operators 60
python_part forward 80
python_part decode 120
"$python" -m benchmarks.gpu report --out "$out"
