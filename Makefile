# `make m3` runs the M3 pack on the embedded engine, `make test` the tests; both set up .venv by themselves.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := install
.PHONY: install install-dev install-compare install-extras test lint unit runtime m3 final faults faults-table reliability mutation bounds fuzz dist smoke docs format clean

VENV := .venv
BIN := $(VENV)/bin
# The first interpreter that runs and is 3.11 or newer; `make PYTHON=/path/to/python m3` overrides.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.14; do \
  if $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then echo $$p; break; fi; done)
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
PYTEST := $(BIN)/python -m pytest

install: $(VENV)/installed
install-dev: $(VENV)/installed-dev
install-compare: $(VENV)/installed-compare
# What `make test` uses where it is there: the comparison with torch and transformers, and Dask.
install-extras: $(VENV)/installed-compare $(VENV)/installed-dask

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or newer on PATH; install one or run make PYTHON=/path/to/python" >&2; exit 2; }
	@echo "creating $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml $(VENV)/bin/python
	@echo "installing h2o-gate into $(VENV)"
	@$(PIP) install -e .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	@echo "installing the development tools into $(VENV)"
	@$(PIP) install -e '.[dev]'
	@touch $@

$(VENV)/installed-compare: $(VENV)/installed
	@echo "installing torch and transformers into $(VENV)"
	@$(PIP) install -e '.[compare]'
	@touch $@

$(VENV)/installed-dask: $(VENV)/installed
	@echo "installing dask into $(VENV)"
	@$(PIP) install -e '.[dask]'
	@touch $@

$(VENV)/installed-docs: $(VENV)/installed-dev
	@echo "installing mkdocs into $(VENV)"
	@$(PIP) install -e '.[docs]'
	@touch $@

$(VENV)/installed-mutation: $(VENV)/installed-dev
	@echo "installing mutmut into $(VENV)"
	@$(PIP) install -e '.[mutation]'
	@touch $@

$(VENV)/installed-fuzz: $(VENV)/installed
	@echo "installing atheris into $(VENV)"
	@$(PIP) install -e '.[fuzz]'
	@touch $@

lint: install-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

unit: install-dev
	@$(PYTEST) tests/unit -q -n 2

test: lint unit

# The codecs' battery with numba's bounds checks on. Kernels have none of their own, and those cached by other runs neither: a cache apart.
bounds: install-dev
	@NUMBA_BOUNDSCHECK=1 NUMBA_CACHE_DIR=build/bounds $(PYTEST) tests/unit/kv/test_codec_battery.py -q

# FUZZ_SECONDS of coverage-guided fuzzing of frames and codecs; a finding ends it, and its input stays below build/fuzz.
FUZZ_SECONDS ?= 60
fuzz: $(VENV)/installed-fuzz
	@NUMBA_BOUNDSCHECK=1 NUMBA_CACHE_DIR=build/bounds $(BIN)/python tools/fuzz_codecs.py --seconds $(FUZZ_SECONDS)

runtime m3 final: install
	@$(PYTEST) tests/acceptance -m $@

# Every fault of docs/faults.md, planted; some five minutes. faults-table writes the table of the run into the document.
faults: install
	@$(PYTEST) tests/faults -q

faults-table: install
	@H2O_FAULTS_TABLE=docs/faults.md $(PYTEST) tests/faults -q

# Promises that take a while to hold something against: load, soak, interruptions; half an hour on two free cores.
reliability: install-dev
	@$(PYTEST) tests/reliability -q

# Mutants of the gates and the table reader, in a copy of the tree below build/; five to ten minutes. docs/mutation.md has the figures.
mutation: $(VENV)/installed-mutation
	@rm -rf build/mutation
	@mkdir -p build/mutation
	@cp -R conftest.py pyproject.toml h2o_gate_plugin presets tests build/mutation
	@cd build/mutation && ../../$(BIN)/python -m mutmut run --max-children 2
	@$(BIN)/python tools/mutation_table.py build/mutation/mutants

# Wheel and sdist, the wheel built from the sdist.
dist: install-dev
	@rm -rf dist
	@mkdir -p build
	@$(BIN)/python -m build --outdir dist . > build/dist.log 2>&1 || { cat build/dist.log; exit 1; }
	@ls -l dist

# The wheel in a clean environment outside the repository, a few minutes; `make smoke SMOKE_PYTHON=python3.13` takes another interpreter.
SMOKE_PYTHON ?= $(BIN)/python
smoke: dist
	@$(BIN)/python tools/smoke_wheel.py dist/*.whl --python $(SMOKE_PYTHON)

# The documents as a site in build/site; a link that leads nowhere or a page that the navigation has not fails it.
docs: $(VENV)/installed-docs
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

format: install-dev
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
