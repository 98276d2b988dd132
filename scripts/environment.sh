#!/usr/bin/env bash
# Prepares the Python environment of this checkout and prints the interpreter to use.
#
#   scripts/environment.sh        -> .venv/bin/python (made and filled when missing), or the current interpreter
#   scripts/environment.sh test   -> the same, with what the tests need besides
#
# An interpreter that already has torch and transformers is taken as it is and nothing is installed (a machine with its
# own CUDA build of torch, or one without a network). Otherwise .venv is made beside this checkout with pinned versions.
#
# PYTHON            interpreter to start from (default: python3)
# DLMCACHE_VENV     1: always .venv; 0: never, use PYTHON as it is (default: decide as above)
# TORCH_INDEX_URL   package index for torch alone (default: decided below)
set -euo pipefail
cd "$(dirname "$0")/.."

TORCH=2.13.0
PACKAGES=(transformers==5.23.0 numpy==2.4.6 rich==15.0.0 setuptools==84.2.1 ninja==1.13.2 pybind11==3.1.0)
# What the tests need besides: one line for each part of the package.
TEST_PACKAGES=(
  pytest==9.2.0 pytest-timeout==2.4.0 pytest-xdist==3.8.0 hypothesis==6.170.15
  ruff==0.17.6 clang-format==23.1.5 cmake==4.4.4
  matplotlib==3.11.2
  pillow==13.0.0  # images of LLaDA-V
  fastapi==0.165.0 uvicorn==0.54.0 prometheus-client==0.26.0 openai==3.57.0
  playwright==1.65.2  # drives the Chromium that is installed; brings none of its own
  lm-eval==0.4.13 'ray[data,serve]==2.60.0'
)
WITH_TESTS=$([ "${1:-}" = test ] && echo 1 || echo "")
PYTHON=${PYTHON:-python3}
say() { echo "environment: $*" >&2; }

usable() {
  "$1" - <<'PY' 2>/dev/null
import sys
from importlib.metadata import version
def at_least(name, *floor):
    return tuple(int(part) for part in version(name).split("+")[0].split(".")[:2]) >= floor
import torch
sys.exit(0 if at_least("torch", 2, 11) and at_least("transformers", 5, 17) else 1)
PY
}

# Nothing is installed into an interpreter that is not ours; what the targets will miss is named instead.
take_as_it_is() {
  say "using $PYTHON $1; nothing is installed"
  for module in torch transformers rich numpy ninja ${WITH_TESTS:+pytest pytest_timeout hypothesis}; do
    "$PYTHON" -c "import $module" 2>/dev/null || say "note: it has no $module (DLMCACHE_VENV=1 makes an own environment)"
  done
  echo "$PYTHON"
  exit 0
}
[ "${DLMCACHE_VENV:-}" != 0 ] || take_as_it_is "as it is (DLMCACHE_VENV=0)"
if [ "${DLMCACHE_VENV:-}" != 1 ] && [ ! -d .venv ] && usable "$PYTHON"; then
  take_as_it_is "which has torch and transformers"
fi

VENV_PYTHON=$PWD/.venv/bin/python
[ -z "$WITH_TESTS" ] || PACKAGES+=("${TEST_PACKAGES[@]}")
wanted="torch==$TORCH ${PACKAGES[*]}"
# An environment with what the tests need has all that the package needs, first in its list.
for stamp in .venv/.installed-test .venv/.installed; do
  if [ -f "$stamp" ] && [[ "$(cat "$stamp") " == "$wanted "* ]]; then
    echo "$VENV_PYTHON"
    exit 0
  fi
done
stamp=.venv/.installed${WITH_TESTS:+-test}
say "preparing .venv with $("$PYTHON" --version)"
[ -x "$VENV_PYTHON" ] || "$PYTHON" -m venv .venv >&2
pip() { "$VENV_PYTHON" -m pip --disable-pip-version-check -qq "$@" >&2; }

# The CPU build of torch is 0.2 GB, the CUDA build with its libraries about 3 GB: take the CUDA build only where a GPU
# is. Asked in this order: a CPU build among what pip is configured to see, torch's index of CPU builds, the default.
if ! "$VENV_PYTHON" -c "import torch; assert torch.__version__.split('+')[0] == '$TORCH'" 2>/dev/null; then
  cpu_index=https://download.pytorch.org/whl/cpu
  if [ -n "${TORCH_INDEX_URL:-}" ]; then
    say "installing torch $TORCH from TORCH_INDEX_URL"
    pip install --index-url "$TORCH_INDEX_URL" "torch==$TORCH"
  elif nvidia-smi -L >/dev/null 2>&1; then
    say "installing torch $TORCH with CUDA (a GPU is visible; about 3 GB)"
    pip install "torch==$TORCH"
  elif "$VENV_PYTHON" -m pip index versions torch 2>/dev/null | grep -q "$TORCH+cpu"; then
    say "installing torch $TORCH+cpu"
    pip install "torch==$TORCH+cpu"
  elif pip --timeout 5 --retries 0 install --index-url "$cpu_index" "torch==$TORCH" 2>/dev/null; then
    say "installed torch $TORCH+cpu from torch's index of CPU builds"
  else
    say "installing torch $TORCH from the default index (no CPU build within reach; may be about 3 GB)"
    pip install "torch==$TORCH"
  fi
fi
say "installing ${PACKAGES[*]}"
pip install "${PACKAGES[@]}"
echo "$wanted" >"$stamp"
echo "$VENV_PYTHON"
