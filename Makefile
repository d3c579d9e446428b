# `make m3` runs the M3 pack on the embedded engine, `make test` the tests; both set up .venv by themselves.
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := install
.PHONY: install install-dev install-compare install-extras test lint unit runtime m3 final faults faults-table reliability mutation bounds fuzz lock audit dist smoke docs format clean

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

# Versions are those of requirements/: runtime, dev and dask with hashes, the other extras pinned by all.txt (CONTRIBUTING.md, "Locked
# dependencies"). `make UNLOCKED=1 install-dev` takes what pyproject.toml allows instead: the way out where a locked file is not to be had.
UNLOCKED ?=
WAY_OUT = { echo "make: the locked dependencies could not be installed; make UNLOCKED=1 takes the versions that pyproject.toml allows" >&2; exit 1; }
# $(1): a file of requirements/, $(2): what it locks
install_hashed = if [ -n "$(UNLOCKED)" ]; then $(PIP) install -e '$(2)'; else { $(PIP) install --require-hashes -r requirements/$(1).txt \
  && $(PIP) install --no-deps --no-build-isolation -e .; } || $(WAY_OUT); fi
# $(1): an extra
install_pinned = if [ -n "$(UNLOCKED)" ]; then $(PIP) install -e '.[$(1)]'; else $(PIP) install --no-build-isolation -c requirements/all.txt \
  -e '.[$(1)]' || $(WAY_OUT); fi

$(VENV)/installed: pyproject.toml requirements/runtime.txt $(VENV)/bin/python
	@echo "installing h2o-gate into $(VENV)"
	@$(call install_hashed,runtime,.)
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed requirements/dev.txt
	@echo "installing the development tools into $(VENV)"
	@$(call install_hashed,dev,.[dev])
	@touch $@

$(VENV)/installed-compare: $(VENV)/installed requirements/all.txt
	@echo "installing torch and transformers into $(VENV)"
	@$(call install_pinned,compare)
	@touch $@

$(VENV)/installed-dask: $(VENV)/installed requirements/dask.txt
	@echo "installing dask into $(VENV)"
	@$(call install_hashed,dask,.[dask])
	@touch $@

$(VENV)/installed-docs: $(VENV)/installed-dev
	@echo "installing mkdocs into $(VENV)"
	@$(call install_pinned,docs)
	@touch $@

$(VENV)/installed-mutation: $(VENV)/installed-dev
	@echo "installing mutmut into $(VENV)"
	@$(call install_pinned,mutation)
	@touch $@

$(VENV)/installed-fuzz: $(VENV)/installed
	@echo "installing atheris into $(VENV)"
	@$(call install_pinned,fuzz)
	@touch $@

$(VENV)/installed-audit: $(VENV)/installed-dev
	@echo "installing pip-audit and bandit into $(VENV)"
	@$(call install_pinned,audit)
	@touch $@

# The newest versions that pyproject.toml allows, for Python 3.11 and later on any platform; nothing in the files names an index.
COMPILE = $(VENV)-lock/bin/uv pip compile pyproject.toml requirements/build.in --universal --python-version 3.11 --no-header --no-annotate --quiet --upgrade
lock:
	@test -x $(VENV)-lock/bin/uv || { $(PYTHON) -m venv $(VENV)-lock && $(VENV)-lock/bin/python -m pip --quiet install uv; }
	@$(COMPILE) $(foreach extra,dev docs compare dask mutation fuzz audit,--extra $(extra)) -o requirements/all.txt
	@$(COMPILE) --generate-hashes -c requirements/all.txt -o requirements/runtime.txt
	@$(COMPILE) --generate-hashes -c requirements/all.txt --extra dev -o requirements/dev.txt
	@$(COMPILE) --generate-hashes -c requirements/all.txt --extra dask -o requirements/dask.txt

# Known vulnerabilities of the locked versions (asks a service on the internet), and what bandit finds in the package.
audit: $(VENV)/installed-audit
	@$(BIN)/bandit --quiet --recursive h2o_gate_plugin --configfile pyproject.toml
	@$(BIN)/python tools/audit_requirements.py requirements/all.txt

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

# FUZZ_SECONDS of damaged files for every reader, then as many of coverage-guided fuzzing of frames and codecs; both tell how many inputs
# they tried. A finding fails it, and its input stays below build/fuzz.
FUZZ_SECONDS ?= 60
fuzz: install-dev $(VENV)/installed-fuzz
	@$(BIN)/python tools/fuzz_readers.py --seconds $(FUZZ_SECONDS)
	@NUMBA_BOUNDSCHECK=1 NUMBA_CACHE_DIR=build/bounds $(BIN)/python tools/fuzz_codecs.py --seconds $(FUZZ_SECONDS)

runtime m3 final: install
	@$(PYTEST) tests/acceptance -m $@

# Every fault of docs/faults.md, planted; some five minutes. faults-table writes the table of the run into the document.
faults: install
	@$(PYTEST) tests/faults -q

faults-table: install
	@H2O_FAULTS_TABLE=docs/faults.md $(PYTEST) tests/faults -q

# Promises that take a while to hold something against: load, soak, interruptions; a quarter of an hour on two free cores.
reliability: install-dev
	@$(PYTEST) tests/reliability -q -n 2

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
	rm -rf $(VENV) $(VENV)-lock build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
