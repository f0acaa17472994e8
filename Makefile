# The commands of the house. `make demo` and `make test` set up what they need; a second run installs nothing.
SHELL := /bin/bash
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
OUT ?= runs/demo
SEED ?= 0
JOBS ?= 2
export PYTHONDONTWRITEBYTECODE :=

.PHONY: help install install-dev demo test test-slow check format ui clean

help:  ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

install: $(VENV)/.core  ## the virtual environment with what the product needs

install-dev: $(VENV)/.dev  ## the same, and what tests and checks need

$(VENV)/.core: pyproject.toml constraints.txt deploy/install.sh
	bash deploy/install.sh $(VENV) $(PYTHON) . && touch $@

$(VENV)/.dev: $(VENV)/.core
	bash deploy/install.sh $(VENV) $(PYTHON) '.[dev]' && touch $@

demo: $(VENV)/.core  ## the whole chain on this machine, into runs/demo (OUT=, SEED=)
	$(BIN)/dualforce demo --out $(OUT) --seed $(SEED)

test: $(VENV)/.dev  ## the fast tests, in as many processes as JOBS says (2)
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n $(JOBS) --dist loadfile -m "not slow and not gpu"

test-slow: $(VENV)/.dev  ## the tests that take minutes, one by one: each starts processes of its own
	OMP_NUM_THREADS=1 $(BIN)/pytest -q --durations 15 -m "slow and not gpu"

check: $(VENV)/.dev  ## format, lint, types, layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev  ## rewrite the sources as the formatter wants them
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

ui: $(VENV)/.core  ## the Prefect UI over a run folder (OUT=)
	$(BIN)/dualforce up --out $(OUT)

clean:  ## remove the environment, runs and caches
	rm -rf $(VENV) runs build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
