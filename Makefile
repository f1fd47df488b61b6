# Everything runs in .venv, made on first use; a bare machine needs only CPython >= 3.11 and make.

PYTHON ?= python3
PYTEST_ARGS ?= -n 2
# Which tests are slow. `SLOW="slow and not slowest"` leaves out those of minutes.
SLOW ?= slow

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip -qq --disable-pip-version-check --no-input

export PYRIGHT_PYTHON_IGNORE_WARNINGS := 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install quickstart test test-slow test-all lint format docs bench clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s%s\n", $$1, $$2}' Makefile

install: $(VENV)/.installed ## make .venv and install l2o into it, editable, with the development tools

quickstart: $(VENV)/.installed-run ## install what a user needs, without the tools, and run the demonstration
	$(BIN)/l2o quickstart

test: lint ## lint, types, import contracts and all tests but the slow ones
	$(BIN)/python -m pytest $(PYTEST_ARGS) -m "not slow"

test-slow: $(VENV)/.installed ## the tests that take more than about ten seconds each, or a browser; fuzzing too
	$(BIN)/python -m pytest $(PYTEST_ARGS) -m "$(SLOW)"

test-all: test test-slow ## all tests

lint: $(VENV)/.installed ## ruff, pyright and import contracts, without the tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/lint-imports --no-logo

format: $(VENV)/.installed ## rewrite the code as ruff would have it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/.installed-docs ## run the tutorials and build the site, docs/_build/html; a warning is an error
	$(BIN)/python docs/make_tutorials.py
	$(BIN)/python docs/make_api.py
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html
	@echo "The site: docs/_build/html/index.html"

bench: $(VENV)/.installed ## run every script in benchmarks/
	@for f in benchmarks/*.py; do echo "== $$f"; $(BIN)/python "$$f" || exit 1; done

clean: ## remove caches and builds; .venv/ and runs/ stay
	rm -rf build dist docs/_build docs/api docs/cards .pytest_cache .ruff_cache .import_linter_cache
	find . -name .venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps keep pip from running again until pyproject.toml changes. `quickstart` does without the tools.
$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@echo "Installing l2o and the development tools into $(VENV) ..."
	@$(PIP) install -e '.[dev]'
	@touch $(VENV)/.installed-run $@

$(VENV)/.installed-docs: pyproject.toml | $(VENV)/.installed
	@echo "Installing what builds the site into $(VENV) ..."
	@$(PIP) install -e '.[docs]'
	@touch $@

$(VENV)/.installed-run: pyproject.toml | $(BIN)/python
	@echo "Installing l2o into $(VENV) ..."
	@$(PIP) install -e '.[cli]'
	@touch $@

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "error: no '$(PYTHON)' on the PATH. Install Python >= 3.11, or name one: make PYTHON=python3.12 ..." >&2; \
	  exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: l2o needs Python >= 3.11, but '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "Install a newer one and name it: make PYTHON=python3.12 ..." >&2; \
	  exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { \
	  echo "error: '$(PYTHON)' cannot make virtual environments: its modules venv and ensurepip are missing." >&2; \
	  echo "On Debian and Ubuntu they come with: apt-get install python3-venv" >&2; \
	  exit 1; }
	@$(PYTHON) -m venv --clear $(VENV)
