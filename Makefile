# `make quickstart` runs the main job, `make test` the tests; CONTRIBUTING.md says what each target is for.
# Everything lives in this checkout: the environment in .venv, sweeps in sweeps/, images in cache/.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export ORCHESTRATOR_CACHE ?= $(CURDIR)/cache
# Streams of tests share the processors: threads that spin while they wait slow the others many times.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help quickstart check fast test test-all gpu wheel install clean

help:
	@echo "make quickstart   install into .venv and run a small real sweep (about 10 minutes)"
	@echo "make test         install into .venv, check style and types, run all tests but the thorough ones"
	@echo "make fast         the same with the quick tests only (about 7 minutes)"
	@echo "make test-all     the same with every test: clusters and long faults, too"
	@echo "make gpu          tests and measurements on this machine's GPU beside the targets (10 minutes at most)"
	@echo "make check        style, types and the order of the rooms only"
	@echo "make wheel        build dist/*.whl, which a cluster installs (docs/cluster.md)"
	@echo "make clean        remove .venv, cache and build leftovers (sweeps stay)"

quickstart: $(VENV)/installed
	$(BIN)/orchestrator sweep quickstart

# Clusters, faults and services mostly wait: they run beside the others, each into a file of its own.
# Ctrl-C must reach what runs in the background, for which a shell turns it off.
OTHERS := tests --ignore tests/cluster --ignore tests/faults
FAULTS := tests/faults --ignore tests/faults/test_workers.py
SERVICES := ray or mlflow or browser
define beside
	$(1)=$$(mktemp); env --default-signal=INT $(BIN)/pytest $(2) >$$$(1) 2>&1 & $(1)_runs=$$!
endef
define ended
	wait $$$(1)_runs || failed=1; cat $$$(1); rm $$$(1)
endef

# Marks decide what runs where; pyproject.toml says what each means.
QUICK := -q -m "not (slow or thorough or ray or mlflow or postgres or browser or cluster or gpu)"
fast: $(VENV)/installed check
	@$(call beside,faults,$(QUICK) tests/cluster $(FAULTS)); \
	$(BIN)/pytest $(QUICK) $(OTHERS); failed=$$?; \
	$(call ended,faults); exit $$failed

test: $(VENV)/installed check
	@$(call beside,faults,-m "not thorough" tests/cluster $(FAULTS)); \
	$(call beside,services,-m "not thorough and ($(SERVICES))" $(OTHERS)); \
	$(BIN)/pytest -m "not (thorough or $(SERVICES))" $(OTHERS); failed=$$?; \
	$(call ended,faults); $(call ended,services); exit $$failed

# Those of workers come last and alone, since one of them takes all memory.
test-all: $(VENV)/installed check
	@$(call beside,faults,$(FAULTS)); $(call beside,clusters,tests/cluster); \
	$(call beside,services,-m "$(SERVICES)" $(OTHERS)); \
	$(BIN)/pytest -m "not ($(SERVICES))" $(OTHERS); failed=$$?; \
	$(call ended,faults); $(call ended,clusters); $(call ended,services); \
	$(BIN)/pytest tests/faults/test_workers.py || failed=1; \
	exit $$failed

check: $(VENV)/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports

# The environment if there is one; else PYTHON, which must have what we need: such a machine may have
# no network to install from.
gpu:
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) benchmarks/gpu.py $(ARGS)

wheel: $(VENV)/installed
	rm -rf dist
	$(BIN)/pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info[:2] < (3, 14) else \
	  f"Python 3.11, 3.12 or 3.13 is needed, found {sys.version.split()[0]}; try make PYTHON=python3.12")'
	@echo "installing into $(VENV): torch and its friends, about 3 minutes and 7 GB the first time"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,onnx,cluster]'
	@touch $@

clean:
	rm -rf $(VENV) cache build dist *.egg-info .pytest_cache .ruff_cache .hypothesis
