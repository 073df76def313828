# oatmill: `make train` and `make test` are all that a fresh clone needs; `make help` lists the rest.
#
#   PYTHON           the interpreter for .venv: the first of python3.11, python3.12, python3 that is 3.11 or 3.12
#   VENV             where the environment goes: .venv
#   TORCH_INDEX_URL  an index to take torch from instead of pip's own. Empty by default. The wheel on PyPI brings CUDA along
#                    (several GB); https://download.pytorch.org/whl/cpu has builds for machines without a GPU.
#   WORKERS          processes for `make test`: one per core, at most 4. The tests marked serial run afterwards, in one process.
#   GPU_PYTHON       an interpreter with a CUDA build of torch and oatmill's packages, for `make test-gpu`; by default that of .venv
#   ARGS             more arguments for `oatmill train`, such as ARGS="trainer.total_timesteps=100000 --seed 1"; or for `make bench`

VENV ?= .venv
TORCH ?= torch==2.13.*
TORCH_INDEX_URL ?=
ARGS ?=
WORKERS ?= $(shell python3 -c "import os; print(min(4, len(os.sched_getaffinity(0))))" 2>/dev/null || echo 1)
PYTHON ?= $(shell for python in python3.11 python3.12 python3; do \
	"$$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' 2>/dev/null && echo "$$python" && break; \
	done)

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --quiet
QUICK := not slow and not cluster and not gpu
SEVERAL := $(filter-out 1,$(WORKERS))
GATE := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: help train test test-slow test-cluster test-gpu bench docs clean

help:
	@echo "make train         install, then train four cogs with all five losses for a few minutes"
	@echo "make test          the whole gate: format, lint, types, import contracts, tests"
	@echo "make test-slow     long runs, many seeds, chaos"
	@echo "make test-cluster  tests that need a container engine"
	@echo "make test-gpu      tests and benchmarks that need a CUDA device; the numbers go to gpu.json"
	@echo "make bench         run the benchmarks"
	@echo "make docs          build the documentation site into site/, with warnings as errors"
	@echo "make clean         remove the environment and all caches (runs stay)"

# Installed once: the stamps say for which pyproject.toml.
$(VENV)/.train: pyproject.toml
	@test -n "$(PYTHON)" || { echo "oatmill needs Python 3.11 or 3.12: install one, or say make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@echo "installing oatmill into $(VENV) (once; a few minutes, most of them for torch)"
	@"$(PYTHON)" -m venv $(VENV)
	@$(PIP) $(if $(TORCH_INDEX_URL),--index-url "$(TORCH_INDEX_URL)") "$(TORCH)"
	@$(PIP) --editable ".[cogs,plot]"
	@touch $@

$(VENV)/.dev: $(VENV)/.train
	@echo "installing what the tests need"
	@$(PIP) --editable ".[dev]"
	@touch $@

train: $(VENV)/.train
	@$(BIN)/oatmill train cogs_v_clips --preset tuned --actors 2 trainer.total_timesteps=2400000 $(ARGS)

test: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(if $(SEVERAL),$(GATE) -n $(WORKERS) --dist worksteal -m "$(QUICK) and not serial")
	$(GATE) -m "$(QUICK)$(if $(SEVERAL), and serial)"

# pytest ends with 5 where it finds no test; that is no failure of these two. With -s they show what they have measured.
test-slow: $(VENV)/.dev
	@$(GATE) -s -m slow || test $$? -eq 5

test-cluster: $(VENV)/.dev
	@$(GATE) -s -m cluster || test $$? -eq 5

test-gpu: $(if $(GPU_PYTHON),,$(VENV)/.dev)
	@$(or $(GPU_PYTHON),$(BIN)/python) -m pytest tests/gpu
	@$(or $(GPU_PYTHON),$(BIN)/python) -m benchmarks gpu --rounds 3 --json gpu.json

bench: $(VENV)/.dev
	@OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks $(ARGS)

docs: $(VENV)/.dev
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo "open site/index.html"

clean:
	rm -rf $(VENV) site .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
