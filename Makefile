# make help lists the targets. Each works from a fresh clone and any number of times.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: help setup setup-test build demo test test-python test-cpp bench bench-targets quality lint format clean

# The interpreter is found (and its environment made, if need be) when the first recipe asks for it.
STAMPS := .stamps
PY = $$(cat $(STAMPS)/python)
# Tools installed beside the interpreter (clang-format, cmake) come before the system's.
TOOLS = PATH="$$(dirname $(PY)):$$PATH"
export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))
JOBS ?= $(shell nproc 2>/dev/null || echo 2)
# Tests share the cores as processes of one thread each, where pytest-xdist is installed and no GPU would be shared too.
WORKERS = $$($(PY) scripts/test_workers.py $(JOBS))

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## prepare the Python environment (.venv, or the current one when it has torch)
	@mkdir -p $(STAMPS)
	@scripts/environment.sh > $(STAMPS)/python.new
	@mv $(STAMPS)/python.new $(STAMPS)/python

setup-test: ## the same, with what the tests and checks need besides
	@mkdir -p $(STAMPS)
	@scripts/environment.sh test > $(STAMPS)/python.new
	@mv $(STAMPS)/python.new $(STAMPS)/python

build: setup ## compile the extension in place (CUDA operators too when a toolkit is found)
	@echo "build: compiling dlmcache_cuda._C (log in $(STAMPS)/build.log)"
	@$(PY) setup.py build_ext --inplace > $(STAMPS)/build.log 2>&1 || { tail -n 40 $(STAMPS)/build.log; exit 1; }
	@grep -h '^dlmcache_cuda:' $(STAMPS)/build.log

demo: build ## decode held-out questions with the bundled model, with and without caches
	@$(PY) -m dlmcache_cuda demo

test: test-python test-cpp ## everything that CI runs
	@echo "make test: all passed"

test-python: setup-test build ## operators, model, decoding, command line
	@workers="$(WORKERS)"; $${workers:+env OMP_NUM_THREADS=1} $(PY) -m pytest python_tests $$workers $(PYTEST_ARGS)

test-cpp: setup-test ## torch-free C++ tests and the kernels on the host, plain and under sanitizers
	@$(TOOLS) scripts/test_cpp.sh $(JOBS)

bench: setup-test build ## every cache on the bundled model, then every operator; results go to build/bench
	@$(PY) -m dlmcache_cuda bench $(BENCH_ARGS)
	@$(PY) -m benchmarks.run

bench-targets: setup-test build ## what docs/benchmarks.md reports, all targets (hours; resumes)
	@$(PY) -m dlmcache_cuda bench --suite targets $(BENCH_ARGS)

quality: setup-test build ## what every cache costs and loses on the bundled model (an hour or two; resumes)
	@$(PY) -m benchmarks.quality $(QUALITY_ARGS)

lint: setup-test ## ruff and clang-format, without changing anything
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .
	@git ls-files 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cu' 'csrc/*.cuh' | $(TOOLS) xargs clang-format --dry-run -Werror

format: setup-test ## apply ruff and clang-format
	@$(PY) -m ruff check --fix -q .
	@$(PY) -m ruff format -q .
	@git ls-files 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cu' 'csrc/*.cuh' | $(TOOLS) xargs clang-format -i

clean: ## remove what was built (keeps .venv)
	rm -rf build $(STAMPS) dlmcache_cuda/_C*.so *.egg-info
